// From a position of a layer's map to the pixels it sees, and back from a pixel to the position that centers on it.

import type { Extent, Layer } from "../api/schema";
import type { Position } from "./address";

export interface Box {
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly columns: number;
}

/** The pixels of the prepared image that one position sees, clipped to it; null where the layer can't tell. */
export function seenBox(layer: Layer, position: Position, imageSize: readonly [number, number]): Box | null {
  const { rows, columns } = layer.receptive_field;
  const vertical = span(rows, position.row, imageSize[0]);
  const horizontal = span(columns, position.column, imageSize[1]);
  if (!vertical || !horizontal) return null;
  return { row: vertical[0], rows: vertical[1], column: horizontal[0], columns: horizontal[1] };
}

function span(extent: Extent | null, index: number, size: number): [start: number, length: number] | null {
  if (!extent) return null;
  // Without a stride every position sees the same pixels (global pooling, linear layers).
  const start = extent.stride === null || extent.offset === null ? 0 : extent.offset + extent.stride * index;
  const first = Math.min(size, Math.max(0, start));
  const end = Math.max(first, Math.min(size, start + extent.size));
  return [first, end - first];
}

/** The position whose receptive field's center is nearest to a pixel. */
export function positionAt(layer: Layer, row: number, column: number): Position {
  const { rows, columns } = layer.receptive_field;
  return { row: nearest(rows, row, layer.shape[1]), column: nearest(columns, column, layer.shape[2]) };
}

function nearest(extent: Extent | null, pixel: number, size: number): number {
  if (!extent || extent.stride === null || extent.offset === null || extent.stride === 0) return 0;
  const index = Math.round((pixel - extent.offset - (extent.size - 1) / 2) / extent.stride);
  return Math.min(size - 1, Math.max(0, index));
}
