// A View -> what a contact sheet shows of it.

import { arrayOf, axisSize, type NamedArray, type View } from "../api/view";
import { rangeOf, type Range } from "../paint/scale";
import type { TileSet } from "../paint/tile";

/** The array of a View that a sheet draws, by what the sheet shows. */
export function shownArray(view: View, sheet: string, component = "magnitude"): string {
  if (sheet === "spatial_gradients") return component;
  if (sheet === "weight_gradients" || sheet === "activation_gradients") return "gradient";
  return view.kind === "maps" ? "map" : "kernel";
}

/**
 * @param slices how many slices of each unit a tile shows at most (kernels of one row and one column show all of them)
 */
export function tileSet(view: View, name: string, slices: number): TileSet {
  const array = arrayOf(view, name);
  const range = (view.meta.ranges[name] as Range | undefined) ?? rangeOf(array.data);
  return array.axes.includes("slice") ? sliceTiles(view, array, range, slices) : mapTiles(view, array, range);
}

/** The unit at each place of a View's unit axis. */
export function unitsOf(view: View, count: number): Int32Array {
  const named = view.meta.units;
  return named && named.length === count ? Int32Array.from(named) : Int32Array.from({ length: count }, (_, unit) => unit);
}

function mapTiles(view: View, array: NamedArray, range: Range): TileSet {
  const rows = axisSize(array, "row");
  const columns = axisSize(array, "column");
  const count = axisSize(array, "unit");
  // With several images, the first one's maps come first and fill exactly `count` tiles.
  const size = rows * columns;
  return {
    mode: "planes",
    data: array.data,
    stride: size,
    planes: 1,
    rows,
    columns,
    count: size,
    units: unitsOf(view, count),
    channelStride: 0,
    range,
  };
}

function sliceTiles(view: View, array: NamedArray, range: Range, slices: number): TileSet {
  const units = axisSize(array, "unit");
  const all = axisSize(array, "slice");
  const rows = axisSize(array, "row");
  const columns = axisSize(array, "column");
  const channels = view.arrays.get("channel")?.data;
  const base = { units: unitsOf(view, units), channels, channelStride: all, range };
  if (rows * columns === 1 && all > 1) return { ...base, ...vectorTiles(array, all, channels) };
  const color = view.meta.layout === "color" && all === 3;
  return {
    ...base,
    mode: color ? "color" : "planes",
    data: array.data,
    stride: all * rows * columns,
    planes: color ? 3 : Math.min(all, slices),
    rows,
    columns,
    count: rows * columns,
  };
}

/** Kernels of one value per channel: a tile is the channels in their own order, so that tiles can be compared. */
function vectorTiles(array: NamedArray, all: number, channels: ArrayLike<number> | undefined) {
  const units = array.data.length / all;
  const columns = Math.ceil(Math.sqrt(all));
  const ordered = new Float32Array(array.data.length);
  const cellChannels = new Int32Array(array.data.length);
  const order = new Int32Array(all);
  for (let unit = 0; unit < units; unit++) {
    const start = unit * all;
    for (let slice = 0; slice < all; slice++) order[slice] = slice;
    if (channels) order.sort((one, other) => channels[start + one] - channels[start + other]);
    for (let cell = 0; cell < all; cell++) {
      ordered[start + cell] = array.data[start + order[cell]];
      cellChannels[start + cell] = channels ? channels[start + order[cell]] : order[cell];
    }
  }
  return {
    mode: "planes" as const,
    data: ordered,
    stride: all,
    planes: 1,
    rows: Math.ceil(all / columns),
    columns,
    count: all,
    cellChannels,
  };
}

/** The finite extremes of one tile, over all that it shows. */
export function tileRange(tiles: TileSet, index: number): Range {
  const start = index * tiles.stride;
  const shown = tiles.planes * tiles.rows * tiles.columns;
  return rangeOf(tiles.data, start, Math.min(start + Math.min(shown, tiles.stride), tiles.data.length));
}
