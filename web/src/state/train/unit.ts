// One unit out of a layer's kernels, as planes to paint.

import { axisSize, type NamedArray } from "../../api/view";
import type { Plane } from "../../paint/planes";

export interface UnitPlanes {
  readonly planes: Plane[];
  readonly channels: number[];
  readonly layout: string;
  readonly rows: number;
  readonly columns: number;
  /** All values of the unit, slice after slice. */
  readonly values: ArrayLike<number>;
}

/** A unit of an array [unit, slice, row, column]; null where it isn't there. */
export function unitPlanes(array: NamedArray | undefined, unit: number, layout: string): UnitPlanes | null {
  if (!array || unit >= axisSize(array, "unit")) return null;
  const [slices, rows, columns] = [axisSize(array, "slice"), axisSize(array, "row"), axisSize(array, "column")];
  const size = rows * columns;
  const start = unit * slices * size;
  return {
    planes: Array.from({ length: slices }, (_, slice) => ({ data: array.data, offset: start + slice * size, rows, columns })),
    channels: Array.from({ length: slices }, (_, slice) => slice),
    layout,
    rows,
    columns,
    values: array.data.subarray(start, start + slices * size),
  };
}

/** The L2 norm, in double precision. */
export function norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index] * values[index];
  return Math.sqrt(sum);
}
