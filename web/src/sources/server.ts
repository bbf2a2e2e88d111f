// The source behind `convscope open`: plain HTTP and server-sent events, same origin, cookie set by the first link.

import type { AddedImage, ImageDescription, Images, Job, Layers, ReceptiveFieldBox, Session, Study, StudyImage } from "../api/schema";
import type { View } from "../api/view";
import { Http, type Words } from "./http";
import { atlasPath, viewPath, type AtlasRequest, type SaveFormat, type Source, type ViewRequest } from "./source";

export class ServerSource implements Source {
  private readonly http: Http;

  constructor(words: Words) {
    this.http = new Http(words);
  }

  session = (signal?: AbortSignal) => this.http.json<Session>("api/session", { signal });

  layers = async (signal?: AbortSignal) => (await this.http.json<Layers>("api/layers", { signal })).layers;

  images = (signal?: AbortSignal) => this.http.json<Images>("api/images", { signal });

  receptiveField = (unit: string, signal?: AbortSignal) =>
    this.http.json<ReceptiveFieldBox>(`api/receptive-field?${new URLSearchParams({ unit })}`, { signal });

  view(request: ViewRequest, job: string, signal: AbortSignal): Promise<View> {
    return this.http.view(viewPath(request), { signal, headers: { "X-Convscope-Job": job } });
  }

  async cancel(job: string): Promise<void> {
    await this.http.fetch(`api/jobs/${job}`, { method: "DELETE" });
  }

  async add(file: Blob, name: string, signal?: AbortSignal): Promise<ImageDescription> {
    const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    const path = `api/images?name=${encodeURIComponent(name)}`;
    const answer = await this.http.json<AddedImage>(path, { method: "POST", body: file, headers, signal });
    return answer.image;
  }

  thumbnail = (image: number, side: number) => `api/images/${image}/thumbnail?side=${side}`;
  prepared = (image: number) => `api/images/${image}/prepared`;

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
  studyPrepared = (image: number) => `api/study/images/${image}/prepared`;

  follow(listener: (job: Job) => void, grown: () => void, lost: () => void): () => void {
    const events = new EventSource("api/events");
    events.addEventListener("error", lost);
    events.addEventListener("job", (event) => listener(JSON.parse((event as MessageEvent<string>).data) as Job));
    events.addEventListener("study", grown);
    return () => events.close();
  }
}
