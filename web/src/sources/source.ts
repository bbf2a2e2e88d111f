// Where Views come from. The page knows only this: a server today, a folder of blobs without Python later.

import type { Call, ImageDescription, Images, Job, Layer, MethodHere, ReceptiveFieldBox, Session, Study, StudyImage } from "../api/schema";
import type { View } from "../api/view";
import type { Cut, Which } from "../state/patches";

/** Everything that decides a View; equal requests are the same View. */
export interface ViewRequest {
  readonly method: string;
  readonly target?: string;
  readonly images?: readonly number[];
  readonly parameters?: Readonly<Record<string, string | number | boolean>>;
  /** Of what grows while it is looked at: which state of it. Not sent; the server answers what there is. */
  readonly revision?: number;
}

/** One picture with the patches of some units: units in rows, ranks in columns, each `side` pixels. */
export interface AtlasRequest {
  readonly layer: string;
  readonly which: Which;
  readonly cut: Cut;
  readonly units: readonly number[];
  readonly ranks: number;
  readonly side: number;
}

export type SaveFormat = "png" | "svg" | "npz";

export interface Source {
  session(signal?: AbortSignal): Promise<Session>;
  layers(signal?: AbortSignal): Promise<Layer[]>;
  images(signal?: AbortSignal): Promise<Images>;
  /** What can be asked of a target (empty: the whole network), as far as that is known without computing anything. */
  methods(target: string, signal?: AbortSignal): Promise<MethodHere[]>;
  /** What one neuron, layer:channel:row,column, sees of the prepared image. */
  receptiveField(unit: string, signal?: AbortSignal): Promise<ReceptiveFieldBox>;
  view(request: ViewRequest, job: string, signal: AbortSignal): Promise<View>;
  /** A View that was computed before, or is being computed: then it is waited for as `job`. Null where nobody began it. */
  known(request: ViewRequest, job: string, signal: AbortSignal, underWay: () => void): Promise<View | null>;
  /** What a job has made so far, newer than its preview number `after`; null where there is nothing newer to show. */
  preview(job: string, after: number, signal: AbortSignal): Promise<View | null>;
  cancel(job: string): Promise<void>;
  add(file: Blob, name: string, signal?: AbortSignal): Promise<ImageDescription>;
  thumbnail(image: number, side: number): string;
  prepared(image: number): string;
  /** A View's call, as far as it is known without computing anything. */
  call(request: ViewRequest, signal?: AbortSignal): Promise<Call>;
  download(request: ViewRequest, format: SaveFormat): string;
  study(signal?: AbortSignal): Promise<Study>;
  /** Start mining these layers (null: every convolution, or those of the study); the work goes on as the job. */
  mine(layers: readonly string[] | null, k: number | null, job: string): Promise<Study>;
  atlas(request: AtlasRequest, signal: AbortSignal): Promise<ImageBitmap>;
  studyImage(image: number, signal?: AbortSignal): Promise<StudyImage>;
  studyPrepared(image: number): string;
  /** Back to the network that the server was started with. */
  goBack(): Promise<Session>;
  /** Follow jobs, and hear when what was mined grew or another network was opened; `lost`: the line broke. Returns how to stop. */
  follow(listener: (job: Job) => void, grown: () => void, lost: () => void, reopened: (opening: number) => void): () => void;
}

/** The text that names a View. */
export const viewKey = (request: ViewRequest): string => `${viewPath(request)}${request.revision ? `#${request.revision}` : ""}`;

/** The text of the route that answers a request: path and query, parameters in alphabetical order. */
export function viewPath({ method, target = "", images, parameters = {} }: ViewRequest, kind: "views" | "calls" = "views"): string {
  const query = new URLSearchParams();
  if (target) query.set("target", target);
  if (images?.length) query.set("images", images.join(","));
  for (const name of Object.keys(parameters).sort()) query.set(name, String(parameters[name]));
  const text = query.toString();
  return `api/${kind}/${encodeURIComponent(method)}${text ? `?${text}` : ""}`;
}

/** [0, 1, 2, 7] -> "0-2,7" */
export function spans(numbers: readonly number[]): string {
  const found: [first: number, last: number][] = [];
  for (const number of numbers) {
    const last = found.at(-1);
    if (last && last[1] + 1 === number) last[1] = number;
    else found.push([number, number]);
  }
  return found.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(",");
}

export function atlasPath({ layer, which, cut, units, ranks, side }: AtlasRequest): string {
  const query = { layer, which, units: spans(units), ranks: spans([...Array(ranks).keys()]), side: String(side), mode: cut };
  return `api/patches?${new URLSearchParams(query)}`;
}
