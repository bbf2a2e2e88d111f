// Numbers per unit that a View carries: to sort by, to filter by, to rank.

import type { View } from "../api/view";
import type { TileSet } from "../paint/tile";

export type Statistics = ReadonlyMap<string, ArrayLike<number>>;

const NOT_STATISTICS = new Set(["channel", "place"]);

/** Every array of one number per unit; with several images, the first one's. */
export function statisticsOf(view: View, tiles?: TileSet): Statistics {
  const found = new Map<string, ArrayLike<number>>();
  for (const [name, { axes, shape, data }] of view.arrays) {
    if (NOT_STATISTICS.has(name)) continue;
    if (axes.length === 1 && axes[0] === "unit") found.set(name, data);
    if (axes.length === 2 && axes[0] === "image" && axes[1] === "unit" && shape[0] > 0) {
      found.set(name, data.subarray(0, shape[1]));
    }
  }
  // Whatever a sheet shows can at least be ordered by how strong it is.
  if (tiles && found.size === 0) found.set("norm", norms(tiles));
  return found;
}

/** A View's own statistics, and others by unit number that it has no name for. */
export function withMore(own: Statistics, byUnit: Statistics, units: Int32Array): Statistics {
  const found = new Map(own);
  for (const [name, values] of byUnit) {
    if (!found.has(name)) found.set(name, Float64Array.from(units, (unit) => values[unit]));
  }
  return found;
}

function norms({ data, stride, units }: TileSet): Float32Array {
  return Float32Array.from(units, (_, index) => {
    let sum = 0;
    for (let place = index * stride; place < (index + 1) * stride; place++) sum += data[place] ** 2;
    return Math.sqrt(sum);
  });
}

/** Places in descending order of value: 1 is the largest. Equal values share the better place. */
export function rankOf(values: ArrayLike<number>, index: number): number {
  let larger = 0;
  for (let each = 0; each < values.length; each++) if (values[each] > values[index]) larger++;
  return larger + 1;
}

/** Tile indices in the order to show them. Stable; what isn't a number comes last in either direction. */
export function order(
  count: number,
  values: ArrayLike<number> | undefined,
  descending: boolean,
  keep: (index: number) => boolean,
): Int32Array {
  const kept: number[] = [];
  for (let index = 0; index < count; index++) if (keep(index)) kept.push(index);
  if (values) {
    const sign = descending ? -1 : 1;
    kept.sort((one, other) => {
      const [first, second] = [values[one], values[other]];
      if (Number.isNaN(first) || Number.isNaN(second)) return Number(Number.isNaN(first)) - Number(Number.isNaN(second));
      return sign * (first - second) || one - other;
    });
  } else if (descending) kept.reverse();
  return Int32Array.from(kept);
}

/** How many values fall into each of `bins` equal parts of their finite range. */
export function histogram(values: ArrayLike<number>, bins: number): { counts: number[]; low: number; high: number } {
  let [low, high] = [Infinity, -Infinity];
  for (let index = 0; index < values.length; index++) {
    if (!Number.isFinite(values[index])) continue;
    low = Math.min(low, values[index]);
    high = Math.max(high, values[index]);
  }
  const counts = new Array<number>(bins).fill(0);
  if (low > high) return { counts, low: 0, high: 0 };
  for (let index = 0; index < values.length; index++) {
    if (!Number.isFinite(values[index])) continue;
    const bin = high > low ? Math.min(bins - 1, Math.floor(((values[index] - low) / (high - low)) * bins)) : 0;
    counts[bin]++;
  }
  return { counts, low, high };
}
