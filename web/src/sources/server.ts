// The source behind `convscope open`: plain HTTP and server-sent events, same origin, cookie set by the first link.

import type { AddedImage, Call, EndedJob, ImageDescription, Images, Job, Layers, MethodHere, ReceptiveFieldBox, Reopened, Session, Study, StudyImage } from "../api/schema";
import { Failure } from "../api/failure";
import type { View } from "../api/view";
import { PAGE } from "./cache";
import { Http, type Words } from "./http";
import { atlasPath, viewPath, type AtlasRequest, type SaveFormat, type Source, type ViewRequest } from "./source";

const hasEnded = ({ state }: Job): boolean => state === "done" || state === "failed" || state === "cancelled";

/** Who asks, and what the work is called if this begins or joins some. */
const asking = (job: string): Record<string, string> => ({ "X-Convscope-Job": job, "X-Convscope-Page": PAGE });

const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => {
    const reason = () => reject(new DOMException("superseded", "AbortError"));
    if (signal.aborted) reason();
    else signal.addEventListener("abort", reason, { once: true });
  });

export class ServerSource implements Source {
  private readonly http: Http;
  /** Which network is open: pictures of another one mustn't come out of the browser's cache. */
  private opening = 0;
  /** Methods that are computed beside everything else. */
  private long: ReadonlySet<string> = new Set();
  /** Who waits for the end of which job. */
  private readonly ends = new Map<string, () => void>();

  constructor(words: Words) {
    this.http = new Http(words);
  }

  async session(signal?: AbortSignal): Promise<Session> {
    // Whatever is asked beside this question is asked of the network that will be told.
    this.http.opening = null;
    const session = await this.http.json<Session>("api/session", { signal });
    this.opening = session.opening;
    this.http.opening = session.opening;
    this.long = new Set(session.methods.filter((each) => each.long).map((each) => each.name));
    return session;
  }

  layers = async (signal?: AbortSignal) => (await this.http.json<Layers>("api/layers", { signal })).layers;

  images = (signal?: AbortSignal) => this.http.json<Images>("api/images", { signal });

  methods = async (target: string, signal?: AbortSignal) =>
    (await this.http.json<{ methods: MethodHere[] }>(`api/methods?${new URLSearchParams({ target })}`, { signal })).methods;

  receptiveField = (unit: string, signal?: AbortSignal) =>
    this.http.json<ReceptiveFieldBox>(`api/receptive-field?${new URLSearchParams({ unit })}`, { signal });

  call = (request: ViewRequest, signal?: AbortSignal) => this.http.json<Call>(viewPath(request, "calls"), { signal });

  async view(request: ViewRequest, job: string, signal: AbortSignal): Promise<View> {
    const path = viewPath(request);
    const headers = asking(job);
    if (!this.long.has(request.method)) return this.http.view(path, { signal, headers });
    const stop = this.cancelWith(signal, job);
    try {
      return (await this.awaited(path, job, signal, headers)) ?? (await this.http.view(path, { signal, headers }));
    } finally {
      stop();
    }
  }

  async known(request: ViewRequest, job: string, signal: AbortSignal, underWay: () => void): Promise<View | null> {
    const path = viewPath(request);
    const headers = { ...asking(job), "Cache-Control": "only-if-cached" };
    if (!this.long.has(request.method)) return this.http.viewIfAny(path, { signal, headers });
    let stop = () => {};
    try {
      // Somebody may have begun it, this page before it was loaded again for one: this joins, and begins nothing.
      return await this.awaited(path, job, signal, headers, () => {
        stop = this.cancelWith(signal, job);
        underWay();
      });
    } finally {
      stop();
    }
  }

  /** What takes minutes holds no connection: the line of events tells when it is there. */
  private async awaited(path: string, job: string, signal: AbortSignal, headers: Record<string, string>, underWay = () => {}): Promise<View | null> {
    const ended = new Promise<void>((resolve) => this.ends.set(job, resolve));
    try {
      const answer = await this.http.viewOrJob(path, { signal, headers: { ...headers, Prefer: "respond-async" } });
      if (answer !== "job") return answer;
      underWay();
      await Promise.race([ended, aborted(signal)]);
      const over = await this.http.json<EndedJob>(`api/jobs/${job}`, { signal }).catch(() => null);
      if (over?.state === "failed" && over.failure) throw new Failure(over.failure);
      if (over?.state === "cancelled") throw new Failure({ what: "", where: "", next_step: "", kind: "cancelled" });
      // It is there now; if the line of events broke meanwhile, this waits for it.
      return await this.http.view(path, { signal, headers: asking(job) });
    } finally {
      this.ends.delete(job);
    }
  }

  /** Cancel a job when the one who waits for it gives up; returns how to leave it alone. */
  private cancelWith(signal: AbortSignal, job: string): () => void {
    const stop = () => void this.cancel(job).catch(() => undefined);
    signal.addEventListener("abort", stop, { once: true });
    return () => signal.removeEventListener("abort", stop);
  }

  preview = (job: string, after: number, signal: AbortSignal) =>
    this.http.viewIfAny(`api/jobs/${encodeURIComponent(job)}/preview?after=${after}`, { signal });

  async cancel(job: string): Promise<void> {
    await this.http.fetch(`api/jobs/${job}`, { method: "DELETE" });
  }

  async add(file: Blob, name: string, signal?: AbortSignal): Promise<ImageDescription> {
    const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    const path = `api/images?name=${encodeURIComponent(name)}`;
    const answer = await this.http.json<AddedImage>(path, { method: "POST", body: file, headers, signal });
    return answer.image;
  }

  thumbnail = (image: number, side: number) => `api/images/${image}/thumbnail?side=${side}&opening=${this.opening}`;
  prepared = (image: number) => `api/images/${image}/prepared?opening=${this.opening}`;

  download(request: ViewRequest, format: SaveFormat): string {
    const path = viewPath(request);
    return `${path}${path.includes("?") ? "&" : "?"}format=${format}`;
  }

  study = (signal?: AbortSignal) => this.http.json<Study>("api/study", { signal });

  mine(layers: readonly string[] | null, k: number | null, job: string): Promise<Study> {
    const headers = { "Content-Type": "application/json", "X-Convscope-Job": job };
    return this.http.json<Study>("api/study/mine", { method: "POST", body: JSON.stringify({ layers, k }), headers });
  }

  async atlas(request: AtlasRequest, signal: AbortSignal): Promise<ImageBitmap> {
    const response = await this.http.fetch(atlasPath(request), { signal });
    return createImageBitmap(await response.blob());
  }

  studyImage = (image: number, signal?: AbortSignal) => this.http.json<StudyImage>(`api/study/images/${image}`, { signal });
  studyPrepared = (image: number) => `api/study/images/${image}/prepared?opening=${this.opening}`;

  goBack = (): Promise<Session> => this.http.send<Session>("POST", "api/session/return", {});

  follow(listener: (job: Job) => void, grown: () => void, lost: () => void, reopened: (opening: number) => void): () => void {
    const events = new EventSource(`api/events?page=${PAGE}`);
    events.addEventListener("error", lost);
    // Whatever ended while the line was broken wasn't told.
    events.addEventListener("open", () => this.ends.forEach((end) => end()));
    events.addEventListener("job", (event) => {
      const job = JSON.parse((event as MessageEvent<string>).data) as Job;
      listener(job);
      if (hasEnded(job)) this.ends.get(job.id)?.();
    });
    events.addEventListener("study", grown);
    events.addEventListener("session", (event) => reopened((JSON.parse((event as MessageEvent<string>).data) as Reopened).opening));
    return () => events.close();
  }
}
