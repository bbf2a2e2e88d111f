// Which class the network finds most probable with each part covered: a map of names, not of amounts.

import { pack } from "../paint/colormap";
import type { Picture } from "../paint/pictures";
import type { Plane } from "../paint/planes";

const NAMED = 7;

export interface ClassMap {
  readonly picture: Picture;
  /** Class number of each cell. */
  readonly data: Int32Array;
  /** The most frequent classes, each with its part of the cells and its color. */
  readonly shown: readonly { number: number; part: number; color: number }[];
  /** Classes that share the last gray. */
  readonly others: number;
}

const OTHERS = [140, 140, 140] as const;

/** @param color the color of the class of a rank, as a style sheet writes it ("#rrggbb") */
export function classMap(plane: Plane | null, color: (rank: number) => string): ClassMap | null {
  if (!plane) return null;
  const size = plane.rows * plane.columns;
  const data = Int32Array.from({ length: size }, (_, cell) => plane.data[plane.offset + cell]);
  const counts = new Map<number, number>();
  for (const number of data) counts.set(number, (counts.get(number) ?? 0) + 1);
  const order = [...counts].sort((one, other) => other[1] - one[1] || one[0] - other[0]);
  const colors = new Map<number, readonly number[]>();
  const shown = order.slice(0, NAMED).map(([number, count], rank) => {
    const value = Number.parseInt(color(rank + 1).slice(1), 16);
    const rgb = [value >> 16, (value >> 8) & 255, value & 255] as const;
    colors.set(number, rgb);
    return { number, part: count / size, color: pack(...rgb) };
  });
  const pixels = new Uint8Array(3 * size);
  data.forEach((number, cell) => pixels.set(colors.get(number) ?? OTHERS, 3 * cell));
  return {
    picture: { data: pixels, offset: 0, rows: plane.rows, columns: plane.columns, colors: 3 },
    data,
    shown,
    others: Math.max(0, order.length - NAMED),
  };
}
