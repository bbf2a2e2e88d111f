// One tile of a contact sheet: all that one unit shows, in a square.

import type { Palette } from "./colormap";
import { sliceGrid } from "./layout";
import { fit, paintColor, paintPlane, type Pixels, type Plane, type Rectangle } from "./planes";
import type { Range, Scale } from "./scale";

/**
 * What a sheet shows, unit after unit: `planes` planes of `rows` × `columns` each.
 * "color": three planes are red, green, blue. "planes": slices side by side.
 */
export interface TileSet {
  readonly mode: "planes" | "color";
  readonly data: ArrayLike<number>;
  /** Values from one unit to the next; a tile may show fewer of them. */
  readonly stride: number;
  readonly planes: number;
  readonly rows: number;
  readonly columns: number;
  /** How many values of a plane exist, when its last row is short. */
  readonly count: number;
  /** Absolute channel of each tile. */
  readonly units: Int32Array;
  /** Absolute input channel of each plane, `channelStride` apart per unit; absent when planes aren't slices. */
  readonly channels?: ArrayLike<number>;
  readonly channelStride: number;
  /** Absolute input channel of each cell, when cells are channels (1×1 kernels). */
  readonly cellChannels?: ArrayLike<number>;
  /** True range of the whole tensor, also of what isn't shown. */
  readonly range: Range;
}

/** Paint tile `index` into a square of device pixels. */
export function paintTile(
  target: Pixels,
  left: number,
  top: number,
  side: number,
  tiles: TileSet,
  index: number,
  scale: Scale,
  palette: Palette,
): void {
  const { rows, columns, count, stride, planes } = tiles;
  const offset = index * stride;
  if (tiles.mode === "color") {
    const place = shift(fit(rows, columns, side), left, top);
    paintColor(target, place, { data: tiles.data, offset, rows, columns, count }, rows * columns, scale.limit, palette);
    return;
  }
  forEachPlane(tiles, side, (plane, place) => {
    const each: Plane = { data: tiles.data, offset: offset + plane * rows * columns, rows, columns, count };
    paintPlane(target, shift(place, left, top), each, scale, palette);
  }, planes);
}

/** Where each plane lies in a tile, in the unit of `side`. */
export function forEachPlane(
  { rows, columns }: Pick<TileSet, "rows" | "columns">,
  side: number,
  visit: (plane: number, place: Rectangle) => void,
  planes: number,
): void {
  const grid = sliceGrid(planes, side, Math.max(rows, columns));
  const inner = planes === 1 ? fit(rows, columns, side) : fit(rows, columns, grid.slice);
  const start = planes === 1 ? 0 : grid.start;
  for (let plane = 0; plane < planes; plane++) {
    const left = start + (plane % grid.columns) * (grid.slice + grid.gap);
    const top = start + Math.floor(plane / grid.columns) * (grid.slice + grid.gap);
    visit(plane, shift(inner, left, top));
  }
}

export interface Cell {
  readonly plane: number;
  readonly row: number;
  readonly column: number;
}

/** The cell under a point of a tile; null on its background. */
export function cellAt(tiles: TileSet, side: number, left: number, top: number): Cell | null {
  let found: Cell | null = null;
  const visit = (plane: number, place: Rectangle) => {
    const column = Math.floor(((left - place.left) * tiles.columns) / place.width);
    const row = Math.floor(((top - place.top) * tiles.rows) / place.height);
    if (left < place.left || top < place.top || column >= tiles.columns || row >= tiles.rows) return;
    if (row * tiles.columns + column < tiles.count) found = { plane, row, column };
  };
  forEachPlane(tiles, side, visit, tiles.mode === "color" ? 1 : tiles.planes);
  return found;
}

/** The value (color: three values) of a cell of a tile. */
export function cellValues(tiles: TileSet, index: number, { plane, row, column }: Cell): number[] {
  const size = tiles.rows * tiles.columns;
  const first = index * tiles.stride + row * tiles.columns + column;
  if (tiles.mode === "color") return [0, 1, 2].map((each) => tiles.data[first + each * size]);
  return [tiles.data[first + plane * size]];
}

function shift(place: Rectangle, left: number, top: number): Rectangle {
  return { left: place.left + left, top: place.top + top, width: place.width, height: place.height };
}
