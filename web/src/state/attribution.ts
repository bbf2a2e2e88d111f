// Which maps of an image there are: methods × what they are asked about. Pure: the same state always asks for the same.

import { arrayOf, axisSize, type View } from "../api/view";
import type { MethodDescription, Session } from "../api/schema";
import { luminance } from "../paint/overlay";
import type { Plane } from "../paint/planes";
import { fullScale, magnitudeQuantile, rangeOf, signOf, type Range, type Scale } from "../paint/scale";
import type { ViewRequest } from "../sources/source";

/** What is there in a moment first, the longest last; what others bring comes after. */
const ORDER = [
  "gradient",
  "grad_cam",
  "guided_backprop",
  "deconvnet",
  "layerwise_relevance",
  "integrated_gradients",
  "smoothgrad",
  "occlusion",
] as const;

// Hundreds of runs of the network for one map: nobody wants them before asking for them.
const SLOW: ReadonlySet<string> = new Set(["occlusion"]);

/** How many of an image's own classes are asked about unless someone chooses. */
export const USUAL_CLASSES = 3;

export interface MatrixMethod {
  readonly name: string;
  readonly title: string;
  /** Why it can't be used here at all; "" where it can. */
  readonly missing: string;
  readonly slow: boolean;
  /** It runs beside everything else. */
  readonly long: boolean;
  readonly classSensitive: boolean;
}

const names = (description: MethodDescription): ReadonlySet<string> => new Set(description.parameters.map((each) => each.name));

/** Attribution methods are those that differentiate any objective and say how channels become one map. */
export function isAttribution(description: MethodDescription): boolean {
  const known = names(description);
  return (ORDER as readonly string[]).includes(description.name) || (description.target === "objective" && known.has("reduce") && !known.has("of"));
}

export function matrixMethods(session: Pick<Session, "methods" | "unavailable"> | null): MatrixMethod[] {
  if (!session) return [];
  const found: MatrixMethod[] = session.methods
    .filter(isAttribution)
    .map(({ name, title, long, class_sensitive: sensitive }) => ({ name, title, missing: "", slow: SLOW.has(name), long, classSensitive: sensitive !== false }));
  for (const { name, reason } of session.unavailable) {
    if ((ORDER as readonly string[]).includes(name)) found.push({ name, title: name, missing: reason, slow: false, long: false, classSensitive: true });
  }
  const place = (name: string) => {
    const at = (ORDER as readonly string[]).indexOf(name);
    return at < 0 ? ORDER.length : at;
  };
  return found.sort((one, other) => place(one.name) - place(other.name) || one.name.localeCompare(other.name));
}

/** What the matrix asks about: what someone chose, else the image's own top classes. */
export function columnsOf(asked: readonly string[], top: readonly number[]): string[] {
  return asked.length ? [...asked] : top.slice(0, USUAL_CLASSES).map((number) => `score:${number}`);
}

/** What can be compared on one scale: scores with scores, not with a loss or a unit's value. */
export const kindOf = (column: string): string => column.split(":")[0];

/** The class of a column; null for the loss, the unit, and "the top class". */
export function classOf(column: string): number | null {
  const match = /^(?:score|loss):(\d+)$/.exec(column);
  return match ? Number(match[1]) : null;
}

export const cellKey = (method: string, column: string): string => `${method}|${column}`;

export interface Asked {
  readonly image: number;
  /** The chosen unit's address, for the column "unit"; "" where there is none. */
  readonly unit: string;
  /** Grad-CAM's layer; "": its own choice. */
  readonly camLayer: string;
}

/** What a method and a column are in the terms of the library; null where the column means nothing here. */
export function cellRequest(method: string, column: string, { image, unit, camLayer }: Asked): ViewRequest | null {
  if (column === "unit" && !unit) return null;
  const parameters: Record<string, string> = column === "unit" ? {} : { objective: column };
  // Grad-CAM weighs the maps of some layer, whatever it is asked about.
  if (method === "grad_cam" && camLayer) parameters.layer = camLayer;
  return { method, target: column === "unit" ? unit : undefined, images: [image], parameters };
}

/** The same question, asked of the map itself: does it depend on what the network has learned? */
export function checkRequest(method: string, column: string, asked: Asked): ViewRequest | null {
  const request = cellRequest(method, column, asked);
  if (!request) return null;
  const { objective, ...own } = request.parameters ?? {};
  const parameters: Record<string, string> = { of: method };
  if (objective !== undefined) parameters.objective = String(objective);
  if (Object.keys(own).length) parameters.of_parameters = JSON.stringify(own);
  return { method: "sanity_checks", target: request.target, images: request.images, parameters };
}

/** One map of one image, ready to be painted. */
export interface ImageMap {
  readonly map: Plane;
  readonly photo: Plane | null;
  /** Each channel of the input by itself; empty where the method gives one map only. */
  readonly channels: readonly Plane[];
  readonly range: Range;
  readonly signed: boolean;
  /** The value of what was asked about; null where the View doesn't say. */
  readonly value: number | null;
  /** What the network thinks the asked class is called; "" for units. */
  readonly label: string;
  readonly badge: string;
  readonly facts: readonly [name: string, value: number | string][];
}

const numbers = (value: unknown): number[] => (Array.isArray(value) ? value.map(Number) : typeof value === "number" ? [value] : []);
const texts = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : []);

/** One image's plane of an [image, row, column] array. */
export function imagePlane(view: View, name: string, image = 0): Plane | null {
  const array = view.arrays.get(name);
  if (!array) return null;
  const [rows, columns] = [axisSize(array, "row"), axisSize(array, "column")];
  return { data: array.data, offset: image * rows * columns, rows, columns };
}

/** The photo's lightness under a map; from the View itself, so that map and photo always belong together. */
export function photoPlane(view: View, name = "picture", image = 0): Plane | null {
  const array = view.arrays.get(name);
  if (!array) return null;
  const [rows, columns, colors] = [axisSize(array, "row"), axisSize(array, "column"), axisSize(array, "color")];
  return luminance(array.data, image * rows * columns * colors, rows, columns, colors);
}

export function readMap(view: View, image = 0): ImageMap {
  const map = imagePlane(view, "map", image);
  if (!map) throw new Error(arrayOf(view, "map").axes.join());
  const whole = view.arrays.get("attribution");
  const channels = whole ? axisSize(whole, "channel") : 0;
  const size = whole ? axisSize(whole, "row") * axisSize(whole, "column") : 0;
  const range = rangeOf(map.data, map.offset, map.offset + map.rows * map.columns);
  const facts = view.meta.facts;
  const known = facts && typeof facts === "object" ? (Object.entries(facts) as [string, unknown][]) : [];
  const error = view.arrays.get("completeness_error");
  return {
    map,
    photo: photoPlane(view, "picture", image),
    channels:
      whole && channels > 1
        ? Array.from({ length: channels }, (_, channel) => ({
            data: whole.data,
            offset: (image * channels + channel) * size,
            rows: axisSize(whole, "row"),
            columns: axisSize(whole, "column"),
          }))
        : [],
    range,
    signed: typeof view.meta.signed === "boolean" ? view.meta.signed : signOf(range) === "signed",
    value: numbers(view.meta.values)[image] ?? view.arrays.get("value")?.data[image] ?? null,
    label: texts(view.meta.label_names)[image] ?? "",
    badge: typeof view.meta.badge === "string" ? view.meta.badge : "",
    facts: [
      ...(error ? [["completeness_error", error.data[image]] as [string, number]] : []),
      ...known.filter((each): each is [string, number | string] => typeof each[1] === "number" || typeof each[1] === "string"),
    ],
  };
}

const MOST = 0.995;

/** The scale of one map by itself: all of it, or without the strongest half percent. */
export function mapScale({ map, range, signed }: Pick<ImageMap, "map" | "range" | "signed">, clip: boolean): Scale {
  const full = fullScale(range, signed ? "signed" : "positive");
  if (!clip) return full;
  const values = Array.prototype.slice.call(map.data, map.offset, map.offset + map.rows * map.columns) as number[];
  return { sign: full.sign, limit: magnitudeQuantile(values, MOST) || full.limit };
}

/** One scale for several maps: that of the strongest. */
export function sharedScale(scales: readonly Scale[]): Scale | null {
  if (!scales.length) return null;
  return {
    sign: scales.some(({ sign }) => sign === "signed") ? "signed" : "positive",
    limit: Math.max(...scales.map(({ limit }) => limit)),
  };
}

/** A place in the image as parts of its height and width, so that maps of every size share it. */
export interface Point {
  readonly down: number;
  readonly across: number;
}

/** The cell of a plane that a point falls on. */
export function cellUnder({ rows, columns }: Pick<Plane, "rows" | "columns">, { down, across }: Point): { row: number; column: number } {
  const within = (part: number, size: number) => Math.min(size - 1, Math.max(0, Math.floor(part * size)));
  return { row: within(down, rows), column: within(across, columns) };
}

export function valueUnder(plane: Plane, point: Point): number {
  const { row, column } = cellUnder(plane, point);
  return plane.data[plane.offset + row * plane.columns + column];
}

/** One pixel of a plane on: where the arrow keys lead. */
export function moved(point: Point, { rows, columns }: Pick<Plane, "rows" | "columns">, byRows: number, byColumns: number): Point {
  const { row, column } = cellUnder({ rows, columns }, point);
  const within = (value: number, size: number) => Math.min(size - 1, Math.max(0, value));
  return { down: (within(row + byRows, rows) + 0.5) / rows, across: (within(column + byColumns, columns) + 0.5) / columns };
}
