// What a layer's panels paint, out of a frame: live and recorded moments have the same names.

import { axisSize, type NamedArray, type View } from "../../api/view";
import { fullScale, magnitudeQuantile, rangeOf, signOf, type Range, type Scale } from "../../paint/scale";
import type { Sign } from "../../paint/colormap";
import type { TileSet } from "../../paint/tile";
import { tileSet } from "../tileset";

export const QUANTITIES = ["activations", "activation_gradients", "weights", "weight_gradients", "spatial_gradients", "displacement"] as const;
export type Quantity = (typeof QUANTITIES)[number];

/** The quantities that a person chooses among with the keys 1 … 6. */
export const USUAL: readonly Quantity[] = ["activations", "activation_gradients", "weights", "weight_gradients"];

const ARRAYS: Readonly<Record<Quantity, string>> = {
  activations: "map",
  activation_gradients: "map_gradient",
  weights: "kernel",
  weight_gradients: "kernel_gradient",
  spatial_gradients: "kernel",
  displacement: "displacement",
};

// More slices than this in one tile are too small to be told apart.
const SLICES = 36;

export const INPUT = "input";
export const isMap = (quantity: Quantity): boolean => quantity === "activations" || quantity === "activation_gradients";
export const arrayName = (layer: string, quantity: Quantity): string => `${layer}.${ARRAYS[quantity]}`;

/** What can be painted of a layer, in the panels' order. */
export function quantitiesOf(layer: { name: string; layout?: string | null; kernel?: readonly number[] }): Quantity[] {
  const found: Quantity[] = ["activations", "activation_gradients"];
  if (layer.layout) found.push("weights", "weight_gradients", "spatial_gradients", "displacement");
  return found;
}

export function has(frame: View, layer: string, quantity: Quantity): boolean {
  return frame.arrays.has(arrayName(layer, quantity));
}

/** How a layer's kernels are to be read: what is recorded with them knows best. */
export const layoutOf = (frame: View, layer: string, otherwise: string | null): string =>
  (frame.meta.layouts as Record<string, string> | undefined)?.[layer] ?? (otherwise || "slices");

/** The tiles of one quantity of a layer; null where the frame doesn't hold it, or it doesn't exist. */
export function tilesOf(frame: View, layer: string, layout: string | null, quantity: Quantity, image: number): TileSet | null {
  const name = arrayName(layer, quantity);
  const array = frame.arrays.get(name);
  if (!array) return null;
  const range = (frame.meta.ranges[name] as Range | undefined) ?? rangeOf(array.data);
  if (isMap(quantity)) return layer === INPUT ? inputTiles(array, range, image) : mapTiles(array, range, image);
  if (quantity === "spatial_gradients") {
    const edges = spatialGradients(array);
    return edges && kernelTiles(frame, layer, edges, rangeOf(edges.data), "slices");
  }
  return kernelTiles(frame, layer, array, range, layoutOf(frame, layer, layout));
}

function kernelTiles(frame: View, layer: string, array: NamedArray, range: Range, layout: string): TileSet {
  const arrays = new Map([["kernel", array]]);
  const channel = frame.arrays.get(`${layer}.channel`);
  if (channel) arrays.set("channel", channel);
  const meta = { caption: "", warnings: [], ranges: { kernel: range }, layout };
  return tileSet({ kind: "kernels", arrays, meta, recipe: null, bytes: 0 }, "kernel", SLICES);
}

/** One image's values of a map array [image, unit, row, column]. */
function ofImage(array: NamedArray, image: number) {
  const images = axisSize(array, "image");
  const size = array.data.length / Math.max(1, images);
  const at = Math.min(image, images - 1);
  return array.data.subarray(at * size, (at + 1) * size);
}

function mapTiles(array: NamedArray, range: Range, image: number): TileSet {
  const [units, rows, columns] = [axisSize(array, "unit"), axisSize(array, "row"), axisSize(array, "column")];
  const size = rows * columns;
  const numbers = Int32Array.from({ length: units }, (_, unit) => unit);
  return { mode: "planes", data: ofImage(array, image), stride: size, planes: 1, rows, columns, count: size, units: numbers, channelStride: 0, range };
}

/** The image itself: in color where it has three channels. */
function inputTiles(array: NamedArray, range: Range, image: number): TileSet {
  const maps = mapTiles(array, range, image);
  if (axisSize(array, "unit") !== 3) return maps;
  return { ...maps, mode: "color", stride: 3 * maps.count, planes: 3, units: Int32Array.of(0) };
}

/** How many units of maps [image, unit, row, column] are zero everywhere, on every image. */
export function deadUnits(array: NamedArray | undefined): number {
  if (!array) return 0;
  const [images, units] = [axisSize(array, "image"), axisSize(array, "unit")];
  const size = array.data.length / Math.max(1, images * units);
  let dead = 0;
  for (let unit = 0; unit < units; unit++) {
    let alive = false;
    for (let image = 0; image < images && !alive; image++) {
      const start = (image * units + unit) * size;
      for (let cell = start; cell < start + size && !alive; cell++) alive = array.data[cell] !== 0;
    }
    dead += Number(!alive);
  }
  return dead;
}

/** The same tiles with their finite values from -1 to 1: what an image's darkest and lightest are painted as. */
export function stretched(tiles: TileSet): TileSet {
  const { minimum, maximum } = rangeOf(tiles.data);
  if (minimum === null || maximum === null || minimum === maximum) return tiles;
  const [middle, half] = [(minimum + maximum) / 2, (maximum - minimum) / 2];
  return { ...tiles, data: Float32Array.from(tiles.data, (value) => (value - middle) / half) };
}

/**
 * How strongly each plane of kernels changes along its rows and columns: √(row² + column²) of central differences,
 * one-sided at the border. Null where there are no neighbors.
 */
export function spatialGradients(array: NamedArray): NamedArray | null {
  const [rows, columns] = [axisSize(array, "row"), axisSize(array, "column")];
  if (rows < 2 || columns < 2) return null;
  const { data } = array;
  const size = rows * columns;
  const edges = new Float32Array(data.length);
  for (let start = 0; start < data.length; start += size) {
    for (let row = 0; row < rows; row++) {
      const [above, below] = [Math.max(0, row - 1), Math.min(rows - 1, row + 1)];
      for (let column = 0; column < columns; column++) {
        const [left, right] = [Math.max(0, column - 1), Math.min(columns - 1, column + 1)];
        const down = (data[start + below * columns + column] - data[start + above * columns + column]) / (below - above);
        const across = (data[start + row * columns + right] - data[start + row * columns + left]) / (right - left);
        edges[start + row * columns + column] = Math.hypot(down, across);
      }
    }
  }
  return { data: edges, shape: array.shape, axes: array.axes };
}

// Round enough to read, close enough together that little of the contrast is lost.
const ROUND = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

/** The next round number. */
export function roundLimit(limit: number): number {
  if (!(limit > 0) || !(limit < Infinity)) return 0;
  const power = 10 ** Math.floor(Math.log10(limit));
  const factor = ROUND.find((each) => each * power >= limit * (1 - 1e-7)) ?? 10;
  return Number((factor * power).toPrecision(3));
}

/** Zero is in the middle of everything but activations that are never negative. */
export const signFor = (quantity: Quantity, range: Range): Sign =>
  quantity === "activations" ? signOf(range) : quantity === "spatial_gradients" ? "positive" : "signed";

/**
 * The scale of a strip while frames rush by: a round limit, so that colors and legend don't flicker with every step.
 * It ends at the largest value or, with `most` below 1, where that part of the values does.
 */
export function steadyScale(range: Range, sign: Sign, data: readonly ArrayLike<number>[] = [], most = 1): Scale {
  const full = fullScale(range, sign).limit;
  const limit = most < 1 ? Math.max(0, ...data.map((values) => magnitudeQuantile(values, most))) || full : full;
  return { sign, limit: roundLimit(limit) };
}

/** Several ranges as one: what two moments beside each other share. */
export function joinRanges(ranges: readonly Range[]): Range {
  const lows = ranges.map((each) => each.minimum).filter((each) => each !== null);
  const highs = ranges.map((each) => each.maximum).filter((each) => each !== null);
  const sum = (key: "count" | "nan" | "positive_infinity" | "negative_infinity") => ranges.reduce((total, each) => total + each[key], 0);
  return {
    minimum: lows.length ? Math.min(...lows) : null,
    maximum: highs.length ? Math.max(...highs) : null,
    count: sum("count"),
    nan: sum("nan"),
    positive_infinity: sum("positive_infinity"),
    negative_infinity: sum("negative_infinity"),
  };
}
