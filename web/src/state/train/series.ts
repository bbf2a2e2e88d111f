// Curves as a run keeps them: smoothing, looking values up, and a table of them.

import type { Curve } from "../../api/training";

export interface Series {
  readonly steps: ArrayLike<number>;
  readonly values: ArrayLike<number>;
}

/** Curves by name; what isn't finite comes as null and is NaN here. */
export function readCurves(curves: readonly Curve[]): Map<string, Series> {
  return new Map(curves.map(({ name, steps, values }) => [name, { steps, values: Float64Array.from(values, (value) => value ?? NaN) }]));
}

/**
 * A running mean that forgets by `memory` (0 … 1) with every point. The first values count as much as they should,
 * and what isn't finite is passed over and stays a gap.
 */
export function smooth(series: Series, memory: number): Series {
  const values = new Float64Array(series.values.length);
  let [sum, weight] = [0, 0];
  for (let index = 0; index < values.length; index++) {
    const value = series.values[index];
    if (!(Math.abs(value) < Infinity)) {
      values[index] = NaN;
      continue;
    }
    sum = memory * sum + (1 - memory) * value;
    weight = memory * weight + (1 - memory);
    values[index] = sum / weight;
  }
  return { steps: series.steps, values };
}

/** Index of the point whose step is nearest; -1 where there are none. Steps rise. */
export function nearestIndex(steps: ArrayLike<number>, step: number): number {
  let [low, high] = [0, steps.length - 1];
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
}

/** The value at a step or, where a curve has none there, at the point nearest to it. */
export function valueAt(series: Series | undefined, step: number): number | null {
  if (!series) return null;
  const index = nearestIndex(series.steps, step);
  return index < 0 ? null : series.values[index];
}

export interface CurveRow {
  readonly step: number;
  readonly values: readonly (number | null)[];
}

/** At most `count` rows, evenly spread over the steps of the longest curve and with its last one. */
export function curveRows(series: readonly (Series | undefined)[], count: number): CurveRow[] {
  const longest = series.reduce<Series | undefined>((most, each) => (each && each.steps.length > (most?.steps.length ?? 0) ? each : most), undefined);
  if (!longest) return [];
  const size = longest.steps.length;
  const shown = Math.min(size, count);
  return Array.from({ length: shown }, (_, row) => {
    const step = longest.steps[shown === 1 ? 0 : Math.round((row * (size - 1)) / (shown - 1))];
    return { step, values: series.map((each) => valueAt(each, step)) };
  });
}

/** First and last step over all curves. */
export function span(series: Iterable<Series>): [first: number, last: number] {
  let [first, last] = [Infinity, 0];
  for (const { steps } of series) {
    if (!steps.length) continue;
    first = Math.min(first, steps[0]);
    last = Math.max(last, steps[steps.length - 1]);
  }
  return first <= last ? [first, last] : [0, 1];
}

/** A table of curves for a spreadsheet: one row for each step at which any of them has a value. */
export function curvesAsText(curves: ReadonlyMap<string, Series>): string {
  const names = [...curves.keys()];
  const rows = new Map<number, string[]>();
  names.forEach((name, column) => {
    const { steps, values } = curves.get(name)!;
    for (let index = 0; index < steps.length; index++) {
      const row = rows.get(steps[index]) ?? names.map(() => "");
      row[column] = String(values[index]);
      rows.set(steps[index], row);
    }
  });
  const lines = [...rows].sort(([one], [other]) => one - other).map(([step, row]) => [step, ...row].join(","));
  return `${["step", ...names].join(",")}\n${lines.join("\n")}\n`;
}
