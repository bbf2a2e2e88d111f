// Where Views come from. The page knows only this: a server today, a folder of blobs without Python later.

import type { ImageDescription, Images, Job, Layer, ReceptiveFieldBox, Session } from "../api/schema";
import type { View } from "../api/view";

/** Everything that decides a View; equal requests are the same View. */
export interface ViewRequest {
  readonly method: string;
  readonly target?: string;
  readonly images?: readonly number[];
  readonly parameters?: Readonly<Record<string, string | number | boolean>>;
}

export type SaveFormat = "png" | "svg" | "npz";

export interface Source {
  session(signal?: AbortSignal): Promise<Session>;
  layers(signal?: AbortSignal): Promise<Layer[]>;
  images(signal?: AbortSignal): Promise<Images>;
  /** What one neuron, layer:channel:row,column, sees of the prepared image. */
  receptiveField(unit: string, signal?: AbortSignal): Promise<ReceptiveFieldBox>;
  view(request: ViewRequest, job: string, signal: AbortSignal): Promise<View>;
  cancel(job: string): Promise<void>;
  add(file: Blob, name: string, signal?: AbortSignal): Promise<ImageDescription>;
  thumbnail(image: number, side: number): string;
  prepared(image: number): string;
  download(request: ViewRequest, format: SaveFormat): string;
  /** Follow jobs; `lost` is told when the line breaks. Returns how to stop. */
  follow(listener: (job: Job) => void, lost: () => void): () => void;
}

/** The text that names a View: the path and query of its route, parameters in alphabetical order. */
export function viewPath({ method, target = "", images, parameters = {} }: ViewRequest): string {
  const query = new URLSearchParams();
  if (target) query.set("target", target);
  if (images?.length) query.set("images", images.join(","));
  for (const name of Object.keys(parameters).sort()) query.set(name, String(parameters[name]));
  const text = query.toString();
  return `api/views/${encodeURIComponent(method)}${text ? `?${text}` : ""}`;
}
