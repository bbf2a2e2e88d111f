import { expect, test } from "vitest";

import { formatCell, formatCount, formatExact, formatLarge, formatNumber, formatSeconds, ordinal } from "../src/paint/number";

test.each([
  [0, "0"], [-0, "0"], [1.234e-7, "1.23e−7"], [-1.234e-7, "−1.23e−7"], [0.0123456, "0.0123"], [0.5, "0.500"], [371.74, "372"],
  [1601.4, "1601"], [14208, "14208"], [99999, "99999"], [123456.7, "1.23e5"], [1248424, "1,248,424"], [-938, "−938"], [0.001, "0.00100"],
  [0.0009999, "1.00e−3"], [999.6, "1000"], [NaN, "NaN"], [Infinity, "+Inf"], [-Infinity, "−Inf"], [null, "–"], [1e-45, "1.00e−45"],
])("%d is written %s", (value, text) => expect(formatNumber(value)).toBe(text));

test("a number that isn't zero is never written as zero", () => {
  for (let exponent = -44; exponent < 38; exponent++) {
    for (const value of [10 ** exponent, -3.3 * 10 ** exponent]) {
      expect(Number(formatNumber(value).replaceAll(",", "").replaceAll("−", "-"))).not.toBe(0);
      expect(formatCell(value).length).toBeLessThanOrEqual(6);
      expect(Number(formatCell(value).replaceAll("−", "-"))).not.toBe(0);
    }
  }
});

test("counts, sizes, ranks, times", () => {
  expect(formatCount(14208)).toBe("14,208");
  expect(formatLarge(1248424)).toBe("1.25 M");
  expect([1, 2, 3, 4, 11, 12, 13, 21, 101, 111].map(ordinal)).toEqual(["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "101st", "111th"]);
  expect([0.2, 59, 95].map(formatSeconds)).toEqual(["1 s", "59 s", "1 min 35 s"]);
  expect(formatExact(0.1 + 0.2)).toBe("0.3");
});
