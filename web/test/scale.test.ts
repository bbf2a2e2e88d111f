import { expect, test } from "vitest";

import { CLIPPED_HIGH, CLIPPED_LOW, NAN, NEGATIVE_INFINITY, POSITIVE_INFINITY, ZERO } from "../src/paint/colormap";
import { clippedCount, colorIndex, fullScale, magnitudeQuantile, rangeOf } from "../src/paint/scale";

test("a value and its negative are equally far from zero, for every float", () => {
  for (let round = 0; round < 20_000; round++) {
    const limit = 10 ** (20 * Math.random() - 12);
    const value = Math.fround((2 * Math.random() - 1) * limit);
    const scale = { sign: "signed" as const, limit };
    expect(colorIndex(value, scale) - ZERO).toBe(ZERO - colorIndex(-value, scale));
  }
});

test("the ends, zero and beyond", () => {
  const signed = { sign: "signed" as const, limit: 2 };
  expect([-2, 0, 2].map((value) => colorIndex(value, signed))).toEqual([0, ZERO, 256]);
  expect([-2.1, 2.1].map((value) => colorIndex(value, signed))).toEqual([CLIPPED_LOW, CLIPPED_HIGH]);
  const positive = { sign: "positive" as const, limit: 2 };
  expect([0, 1, 2, -0.1, 3].map((value) => colorIndex(value, positive))).toEqual([0, 128, 256, CLIPPED_LOW, CLIPPED_HIGH]);
  expect([NaN, Infinity, -Infinity].map((value) => colorIndex(value, signed))).toEqual([NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY]);
});

test("a tensor of zeros is drawn as zero", () => {
  expect(colorIndex(0, fullScale(rangeOf([0, 0])))).toBe(0);
  expect(colorIndex(0, fullScale(rangeOf([0, 0]), "signed"))).toBe(ZERO);
});

test("ranges are exact and count what isn't finite", () => {
  expect(rangeOf([NaN, -3, Infinity, 2, -Infinity, NaN])).toEqual({
    minimum: -3, maximum: 2, count: 6, nan: 2, positive_infinity: 1, negative_infinity: 1,
  });
  expect(rangeOf([NaN]).minimum).toBeNull();
  expect(fullScale(rangeOf([-3, 2]))).toEqual({ sign: "signed", limit: 3 });
  expect(fullScale(rangeOf([0, 2]))).toEqual({ sign: "positive", limit: 2 });
});

test("clipping at a quantile leaves that part of the values unclipped", () => {
  const values = Float32Array.from({ length: 10_000 }, (_, index) => (index % 2 ? 1 : -1) * index);
  const limit = magnitudeQuantile(values, 0.995);
  expect(limit).toBeGreaterThan(9_930);
  expect(limit).toBeLessThan(9_970);
  expect(clippedCount(values, { sign: "signed", limit }) / values.length).toBeCloseTo(0.005, 3);
  expect(clippedCount([NaN, Infinity], { sign: "signed", limit: 1 })).toBe(0);
});
