// Training over HTTP: everything under /api/training.

import type {
  Changed,
  CheckedDefinition,
  Confusion,
  Curves,
  NewRace,
  NewRun,
  Offer,
  Predicted,
  Race,
  Run,
  RunDetails,
  Runs,
  Samples,
  Settings,
  SnapshotRead,
} from "../api/training";
import type { Job, Session } from "../api/schema";
import type { View } from "../api/view";
import { Http, type Words } from "./http";

export type Action = "run" | "pause" | "step" | "reset";

/** One number of a layer's input or weight, whose gradient is taken apart. */
export interface Taken {
  readonly layer: string;
  readonly of: "input" | "weight";
  readonly place: readonly number[];
}

const BASE = "api/training";
const named = (job: string): RequestInit => ({ headers: { "X-Convscope-Job": job } });
const runPath = (run: string, rest = ""): string => `${BASE}/runs/${encodeURIComponent(run)}${rest}`;
const query = (values: Readonly<Record<string, string | number | undefined>>): string => {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
};

export class TrainingSource {
  private readonly http: Http;

  constructor(words: Words) {
    this.http = new Http(words);
  }

  offer = (signal?: AbortSignal) => this.http.json<Offer>(BASE, { signal });

  check = (text: string, data: string, signal?: AbortSignal) =>
    this.http.send<CheckedDefinition>("POST", `${BASE}/definition`, { text, data: data || null }, { signal });

  runs = (signal?: AbortSignal) => this.http.json<Runs>(`${BASE}/runs`, { signal });

  run = (run: string, signal?: AbortSignal) => this.http.json<RunDetails>(runPath(run), { signal });

  create = (run: NewRun, job: string) => this.http.send<Run>("POST", `${BASE}/runs`, run, named(job));

  /** Go on with a recorded run where it stopped. */
  resume = (run: string, data: string | null, replace: boolean, job: string) => this.http.send<Run>("POST", runPath(run, "/open"), { data, replace }, named(job));

  act = (run: string, action: Action) => this.http.send<Run>("POST", runPath(run, `/${action}`), {});

  change = (run: string, settings: Settings) => this.http.send<Changed>("POST", runPath(run, "/settings"), { settings });

  /** Its network, as it is now, takes the place of the one that is explored. */
  explore = (run: string, job: string) => this.http.send<Session>("POST", runPath(run, "/explore"), {}, named(job));

  async close(run: string): Promise<void> {
    await this.http.fetch(runPath(run), { method: "DELETE" });
  }

  /** The newest frame but the one numbered `after`; null when there is none within two seconds. */
  frame = (run: string, after: number, layers: readonly string[], images: number, signal: AbortSignal): Promise<View | null> =>
    this.http.viewIfAny(runPath(run, `/frame${query({ after, images, layers: layers.join(",") })}`), { signal });

  steps = async (run: string, name: string, layer: string, signal?: AbortSignal): Promise<number[]> =>
    (await this.http.json<{ steps: number[] }>(runPath(run, `/steps/${name}${query({ layer })}`), { signal })).steps;

  recordedPath = (run: string, name: string, layer: string, step: number): string => runPath(run, `/views/${name}${query({ layer, step })}`);

  recorded = (run: string, name: string, layer: string, step: number, signal?: AbortSignal): Promise<View> =>
    this.http.view(this.recordedPath(run, name, layer, step), { signal });

  curves = (run: string, points: number, signal?: AbortSignal) => this.http.json<Curves>(runPath(run, `/curves${query({ points })}`), { signal });

  test = (run: string, indexes: readonly number[], signal?: AbortSignal) =>
    this.http.json<Samples>(runPath(run, `/test${query({ indexes: indexes.join(",") })}`), { signal });

  confusion = (run: string, whole: boolean, signal?: AbortSignal) =>
    this.http.json<Confusion>(runPath(run, `/confusion${whole ? "?whole=true" : ""}`), { signal });

  predict(run: string, file: Blob, signal?: AbortSignal): Promise<Predicted> {
    const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    return this.http.json<Predicted>(runPath(run, "/predict"), { method: "POST", body: file, headers, signal });
  }

  image = (run: string, index: number): string => runPath(run, `/images/${index}`);

  backpropagation = (run: string, index: number, part: "layers" | "loss", signal?: AbortSignal): Promise<View> =>
    this.http.view(runPath(run, `/backpropagation${query({ index, part })}`), { signal });

  terms = (run: string, pass: number, { layer, of, place }: Taken, signal?: AbortSignal): Promise<View> =>
    this.http.view(runPath(run, `/backpropagation/${pass}${query({ layer, of, place: place.join(",") })}`), { signal });

  snapshot = async (run: string, kind: "safetensors" | "convnetjs"): Promise<Blob> =>
    (await this.http.fetch(runPath(run, kind === "safetensors" ? "/snapshot.safetensors" : "/snapshot.convnetjs.json"))).blob();

  load(file: Blob, name: string, data: string, job: string): Promise<SnapshotRead> {
    const headers = { "Content-Type": "application/octet-stream", "X-Convscope-Job": job };
    return this.http.json<SnapshotRead>(`${BASE}/snapshots${query({ data, name })}`, { method: "POST", body: file, headers });
  }

  race = (points: number, signal?: AbortSignal) => this.http.json<Race>(`${BASE}/race${query({ points })}`, { signal });

  startRace = (race: NewRace, job: string) => this.http.send<Race>("POST", `${BASE}/race`, race, named(job));

  actRace = (action: "run" | "pause") => this.http.send<Race>("POST", `${BASE}/race/${action}`, {});

  /** Hear how far a job is; only while one is waited for, since browsers keep few connections to a server. */
  follow(job: string, listener: (job: Job) => void): () => void {
    const events = new EventSource("api/events");
    events.addEventListener("job", (event) => {
      const heard = JSON.parse((event as MessageEvent<string>).data) as Job;
      if (heard.id === job) listener(heard);
    });
    return () => events.close();
  }

  async cancel(job: string): Promise<void> {
    await this.http.fetch(`api/jobs/${encodeURIComponent(job)}`, { method: "DELETE" });
  }
}
