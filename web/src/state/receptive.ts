// From a position of a layer's map to the pixels it sees, and back from a pixel to the position that centers on it.

import type { Extent, Layer, ReceptiveField } from "../api/schema";
import type { Position } from "./address";

export interface Box {
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly columns: number;
}

/** Whether the layer's own extents say, for each of its units and positions, exactly what it sees. */
export function isKnown({ receptive_field: { rows, columns, exact, uniform, reason }, shape }: Layer): boolean {
  const even = (extent: Extent | null, positions: number) =>
    extent !== null && extent.offset !== null && (extent.stride !== null || positions === 1);
  return exact && uniform && reason === "" && even(rows, shape[1]) && even(columns, shape[2]);
}

/** The pixels that one position sees, clipped to the prepared image; null where the layer alone can't tell. */
export function seenBox(layer: Layer, position: Position, imageSize: readonly [number, number]): Box | null {
  const { rows, columns } = layer.receptive_field;
  if (!isKnown(layer) || !rows || !columns) return null;
  const [row, high] = span(rows, position.row, imageSize[0]);
  const [column, wide] = span(columns, position.column, imageSize[1]);
  return { row, column, rows: high, columns: wide };
}

function span({ size, stride, offset }: Extent, index: number, pixels: number): [first: number, count: number] {
  const start = (offset ?? 0) + (stride ?? 0) * index;
  const first = Math.max(0, start);
  return [first, Math.max(0, Math.min(start + size, pixels) - first)];
}

/** Whether any one position can see the image from border to border. */
export function seesAll({ rows, columns }: ReceptiveField, imageSize: readonly [number, number]): boolean {
  const covers = (extent: Extent | null, pixels: number) =>
    extent !== null && extent.stride === null && (extent.offset ?? 1) <= 0 && (extent.offset ?? 0) + extent.size >= pixels;
  return covers(rows, imageSize[0]) && covers(columns, imageSize[1]);
}

/** The position whose receptive field's center is nearest to a pixel; where positions aren't evenly spaced, about there. */
export function positionAt(layer: Layer, row: number, column: number, imageSize: readonly [number, number]): Position {
  const { rows, columns } = layer.receptive_field;
  return { row: nearest(rows, row, layer.shape[1], imageSize[0]), column: nearest(columns, column, layer.shape[2], imageSize[1]) };
}

function nearest(extent: Extent | null, pixel: number, positions: number, pixels: number): number {
  const index =
    extent && extent.stride && extent.offset !== null
      ? Math.round((pixel - extent.offset - (extent.size - 1) / 2) / extent.stride)
      : Math.floor((pixel / pixels) * positions);
  return Math.min(positions - 1, Math.max(0, index));
}
