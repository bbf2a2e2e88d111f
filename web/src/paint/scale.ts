// What value gets which color: a stated limit, zero always at the neutral, exact counts of what doesn't fit.

import { CLIPPED_HIGH, CLIPPED_LOW, NAN, NEGATIVE_INFINITY, POSITIVE_INFINITY, ZERO, type Sign } from "./colormap";

/** Signed: -limit … 0 … limit. Positive: 0 … limit. A limit of 0 (everything is zero) draws zero. */
export interface Scale {
  readonly sign: Sign;
  readonly limit: number;
}

/** The finite minimum and maximum of some values, and exact counts of the rest. */
export interface Range {
  minimum: number | null;
  maximum: number | null;
  count: number;
  nan: number;
  positive_infinity: number;
  negative_infinity: number;
}

// Rounding of float32 in transit must not turn the maximum itself into a clipped value.
const SLACK = 1 + 1e-6;

/** The index of a value's color in a Palette. +x and -x are always equally far from ZERO. */
export function colorIndex(value: number, scale: Scale): number {
  if (value !== value) return NAN;
  if (value === Infinity) return POSITIVE_INFINITY;
  if (value === -Infinity) return NEGATIVE_INFINITY;
  const { sign, limit } = scale;
  if (limit <= 0) return sign === "signed" ? ZERO : 0;
  const part = value / limit;
  if (sign === "signed") {
    if (part > SLACK) return CLIPPED_HIGH;
    if (part < -SLACK) return CLIPPED_LOW;
    const distance = Math.min(ZERO, Math.round(Math.abs(part) * ZERO));
    return part < 0 ? ZERO - distance : ZERO + distance;
  }
  if (part > SLACK) return CLIPPED_HIGH;
  if (part < 0) return CLIPPED_LOW;
  return Math.min(2 * ZERO, Math.round(part * 2 * ZERO));
}

export function rangeOf(values: ArrayLike<number>, start = 0, end = values.length): Range {
  let minimum = Infinity;
  let maximum = -Infinity;
  let [nan, positive, negative] = [0, 0, 0];
  for (let index = start; index < end; index++) {
    const value = values[index];
    if (value !== value) nan++;
    else if (value === Infinity) positive++;
    else if (value === -Infinity) negative++;
    else {
      if (value < minimum) minimum = value;
      if (value > maximum) maximum = value;
    }
  }
  return {
    minimum: minimum === Infinity ? null : minimum,
    maximum: maximum === -Infinity ? null : maximum,
    count: end - start,
    nan,
    positive_infinity: positive,
    negative_infinity: negative,
  };
}

/** Signed unless nothing is below zero. */
export function signOf(range: Pick<Range, "minimum">): Sign {
  return range.minimum !== null && range.minimum < 0 ? "signed" : "positive";
}

/** The scale that shows a whole range, nothing clipped. */
export function fullScale(range: Pick<Range, "minimum" | "maximum">, sign: Sign = signOf(range)): Scale {
  const low = range.minimum ?? 0;
  const high = range.maximum ?? 0;
  return { sign, limit: sign === "signed" ? Math.max(Math.abs(low), Math.abs(high)) : Math.max(0, high) };
}

/** The magnitude that `fraction` of the finite values don't exceed, to one part in 8,192 of the largest. */
export function magnitudeQuantile(values: ArrayLike<number>, fraction: number): number {
  const bins = new Uint32Array(8192);
  let largest = 0;
  let count = 0;
  for (let index = 0; index < values.length; index++) {
    const magnitude = Math.abs(values[index]);
    if (magnitude < Infinity) {
      count++;
      if (magnitude > largest) largest = magnitude;
    }
  }
  if (largest === 0) return 0;
  const factor = bins.length / largest;
  for (let index = 0; index < values.length; index++) {
    const magnitude = Math.abs(values[index]);
    if (magnitude < Infinity) bins[Math.min(bins.length - 1, Math.floor(magnitude * factor))]++;
  }
  let seen = 0;
  for (let bin = 0; bin < bins.length; bin++) {
    seen += bins[bin];
    if (seen >= fraction * count) return ((bin + 1) / bins.length) * largest;
  }
  return largest;
}

/** How many finite values a scale cannot show. */
export function clippedCount(values: ArrayLike<number>, scale: Scale): number {
  const high = scale.limit * SLACK;
  const low = scale.sign === "signed" ? -high : 0;
  let count = 0;
  for (let index = 0; index < values.length; index++) {
    const value = values[index];
    if ((value > high && value < Infinity) || (value < low && value > -Infinity)) count++;
  }
  return count;
}
