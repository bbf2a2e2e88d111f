// Optimized images and inverted codes: what is asked for, and what a View of them holds.

import { axisSize, type NamedArray, type View } from "../api/view";
import type { ImageDescription, Layer, MethodDescription, Session } from "../api/schema";
import type { Picture } from "../paint/pictures";
import type { ViewRequest } from "../sources/source";

/** So many units of a layer are optimized in one batch. */
export const UNITS_AT_ONCE = 16;

// Natural images to compare with where nothing was mined: enough to find a good patch, few enough not to wait for.
const MOST_NATURAL = 64;

const method = (session: Pick<Session, "methods"> | null, name: string): MethodDescription | null => session?.methods.find((each) => each.name === name) ?? null;

/** What a parameter may be, where the method says so. */
export function choicesOf(session: Pick<Session, "methods"> | null, name: string, parameter: string): string[] {
  return (method(session, name)?.parameters.find((each) => each.name === parameter)?.choices ?? []).map(String);
}

export const defaultOf = (session: Pick<Session, "methods"> | null, name: string, parameter: string): string =>
  String(method(session, name)?.parameters.find((each) => each.name === parameter)?.default ?? "");

export interface Optimizing {
  readonly preset: string;
  /** Something was mined: the best natural patches are known, and no images need to be sent along. */
  readonly mined: boolean;
  readonly images: readonly Pick<ImageDescription, "id">[];
}

/** One unit, or several of a layer; null where there is nothing natural to show beside the result. */
export function optimizedRequest(layer: Pick<Layer, "address">, units: readonly number[], { preset, mined, images }: Optimizing): ViewRequest | null {
  if (!mined && !images.length) return null;
  const natural = mined ? {} : { images: images.slice(0, MOST_NATURAL).map((image) => image.id) };
  const named: Record<string, string> = preset ? { preset } : {};
  if (units.length === 1) return { method: "feature_visualization", target: `${layer.address}:${units[0]}`, ...natural, parameters: named };
  return { method: "feature_visualization", target: layer.address, ...natural, parameters: { ...named, units: units.join(",") } };
}

export const inversionRequest = (layer: Pick<Layer, "address">, image: number, preset: string): ViewRequest => ({
  method: "inversion",
  target: layer.address,
  images: [image],
  parameters: preset ? { preset } : {},
});

export interface Optimized {
  readonly name: string;
  readonly picture: Picture;
  /** The unit's value on the picture, at the network's own input size, and on the best natural patch; null before the end. */
  readonly score: number | null;
  readonly naturalScore: number | null;
  readonly natural: readonly Picture[];
  readonly history: ArrayLike<number>;
  readonly zero: boolean;
}

const texts = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : []);
const finite = (value: number | undefined): number | null => (value !== undefined && Number.isFinite(value) ? value : null);

/** One of the pictures of an array […, row, column, color]. */
export function pictureAt(array: NamedArray, index: number): Picture {
  const [rows, columns, colors] = [axisSize(array, "row"), axisSize(array, "column"), axisSize(array, "color")];
  return { data: array.data, offset: index * rows * columns * colors, rows, columns, colors };
}

/** A picture that is all of one gray: where there was nothing to show. */
const isBlank = ({ data, offset, rows, columns, colors }: Picture): boolean => {
  for (let at = offset; at < offset + rows * columns * colors; at++) if (data[at] !== data[offset]) return false;
  return true;
};

/** The optimized images of a View, finished or on their way, in its own order. */
export function readOptimized(view: View): Optimized[] {
  const picture = view.arrays.get("picture");
  if (!picture) return [];
  const natural = view.arrays.get("natural_picture");
  const ranks = natural ? axisSize(natural, "rank") : 0;
  const history = view.arrays.get("history");
  const steps = history ? axisSize(history, "step") : 0;
  const [names, zero] = [texts(view.meta.names), texts(view.meta.zero_gradient)];
  return Array.from({ length: axisSize(picture, "unit") }, (_, unit) => ({
    name: names[unit] ?? "",
    picture: pictureAt(picture, unit),
    score: finite(view.arrays.get("score")?.data[unit]),
    naturalScore: finite(view.arrays.get("natural_score")?.data[unit]),
    natural: natural ? Array.from({ length: ranks }, (_, rank) => pictureAt(natural, unit * ranks + rank)).filter((each) => !isBlank(each)) : [],
    history: history ? history.data.subarray(unit * steps, (unit + 1) * steps) : [],
    zero: zero.includes(names[unit] ?? " "),
  }));
}

/** The channel of each optimized image; its place where the View doesn't say. */
export function optimizedUnits(view: View, count: number): number[] {
  const named = view.meta.units;
  return Array.isArray(named) && named.length === count ? named.map(Number) : Array.from({ length: count }, (_, unit) => unit);
}

export interface Inverted {
  readonly picture: Picture;
  readonly original: Picture | null;
  /** Distance of the codes, as a part of the code's own size. */
  readonly error: number | null;
  readonly history: ArrayLike<number>;
}

export function readInverted(view: View, image = 0): Inverted | null {
  const [picture, original, error, history] = ["picture", "original", "error", "history"].map((name) => view.arrays.get(name));
  if (!picture) return null;
  const steps = history ? axisSize(history, "step") : 0;
  return {
    picture: pictureAt(picture, image),
    original: original ? pictureAt(original, image) : null,
    error: finite(error?.data[image]),
    history: history ? history.data.subarray(image * steps, (image + 1) * steps) : [],
  };
}
