// The source behind `convscope open`: plain HTTP and server-sent events, same origin, cookie set by the first link.

import { Failure, isAbort, readFailure } from "../api/failure";
import type { AddedImage, ImageDescription, Images, Job, Layers, ReceptiveFieldBox, Session, Study, StudyImage } from "../api/schema";
import { BadView, readView, type View } from "../api/view";
import { atlasPath, viewPath, type AtlasRequest, type SaveFormat, type Source, type ViewRequest } from "./source";

export class ServerSource implements Source {
  /** @param words what to say when the server can't be reached or answers nonsense */
  constructor(private readonly words: { gone: string; goneNext: string; unreadable: string; unreadableNext: string }) {}

  session = (signal?: AbortSignal) => this.json<Session>("api/session", { signal });

  layers = async (signal?: AbortSignal) => (await this.json<Layers>("api/layers", { signal })).layers;

  images = (signal?: AbortSignal) => this.json<Images>("api/images", { signal });

  receptiveField = (unit: string, signal?: AbortSignal) =>
    this.json<ReceptiveFieldBox>(`api/receptive-field?${new URLSearchParams({ unit })}`, { signal });

  async view(request: ViewRequest, job: string, signal: AbortSignal): Promise<View> {
    const path = viewPath(request);
    const response = await this.fetch(path, { signal, headers: { "X-Convscope-Job": job } });
    const blob = await response.arrayBuffer();
    try {
      return readView(blob);
    } catch (error) {
      if (!(error instanceof BadView)) throw error;
      const { unreadable, unreadableNext } = this.words;
      const what = `${unreadable}: ${error.message}`;
      throw new Failure({ what, where: path, next_step: unreadableNext, kind: "bad_view" });
    }
  }

  async cancel(job: string): Promise<void> {
    await this.fetch(`api/jobs/${job}`, { method: "DELETE" });
  }

  async add(file: Blob, name: string, signal?: AbortSignal): Promise<ImageDescription> {
    const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    const path = `api/images?name=${encodeURIComponent(name)}`;
    const answer = await this.json<AddedImage>(path, { method: "POST", body: file, headers, signal });
    return answer.image;
  }

  thumbnail = (image: number, side: number) => `api/images/${image}/thumbnail?side=${side}`;
  prepared = (image: number) => `api/images/${image}/prepared`;

  download(request: ViewRequest, format: SaveFormat): string {
    const path = viewPath(request);
    return `${path}${path.includes("?") ? "&" : "?"}format=${format}`;
  }

  study = (signal?: AbortSignal) => this.json<Study>("api/study", { signal });

  mine(layers: readonly string[] | null, k: number | null, job: string): Promise<Study> {
    const headers = { "Content-Type": "application/json", "X-Convscope-Job": job };
    return this.json<Study>("api/study/mine", { method: "POST", body: JSON.stringify({ layers, k }), headers });
  }

  async atlas(request: AtlasRequest, signal: AbortSignal): Promise<ImageBitmap> {
    const response = await this.fetch(atlasPath(request), { signal });
    return createImageBitmap(await response.blob());
  }

  studyImage = (image: number, signal?: AbortSignal) => this.json<StudyImage>(`api/study/images/${image}`, { signal });
  studyPrepared = (image: number) => `api/study/images/${image}/prepared`;

  follow(listener: (job: Job) => void, grown: () => void, lost: () => void): () => void {
    const events = new EventSource("api/events");
    events.addEventListener("error", lost);
    events.addEventListener("job", (event) => listener(JSON.parse((event as MessageEvent<string>).data) as Job));
    events.addEventListener("study", grown);
    return () => events.close();
  }

  private async json<Answer>(path: string, init?: RequestInit): Promise<Answer> {
    return (await (await this.fetch(path, init)).json()) as Answer;
  }

  private async fetch(path: string, init?: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(path, { credentials: "same-origin", ...init });
    } catch (error) {
      if (isAbort(error) || init?.signal?.aborted) throw error;
      throw new Failure({ what: this.words.gone, where: "", next_step: this.words.goneNext, kind: "server_gone" });
    }
    if (!response.ok) throw await readFailure(response);
    return response;
  }
}
