import { readFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import {
  CLIPPED_HIGH, CLIPPED_LOW, COLORS, NAN, NEGATIVE_INFINITY, palette, POSITIVE_INFINITY, POSITIVE_MAPS, SIGNED_MAPS,
  STEPS, unpack, ZERO, type Palette, type Rgb, type Sign, type Theme,
} from "../src/paint/colormap";

const THEMES: Theme[] = ["light", "dark"];
const ALL: [Sign, string, Theme][] = THEMES.flatMap((theme) => [
  ...SIGNED_MAPS.map((name): [Sign, string, Theme] => ["signed", name, theme]),
  ...POSITIVE_MAPS.map((name): [Sign, string, Theme] => ["positive", name, theme]),
]);

const linear = (level: number) => (level / 255 <= 0.04045 ? level / 255 / 12.92 : ((level / 255 + 0.055) / 1.055) ** 2.4);

/** sRGB to CIE L*a*b*, written slowly. */
function lab([red, green, blue]: Rgb): [number, number, number] {
  const [r, g, b] = [linear(red), linear(green), linear(blue)];
  const f = (value: number) => (value > 216 / 24389 ? Math.cbrt(value) : ((24389 / 27) * value + 16) / 116);
  const x = f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047);
  const y = f(0.2126729 * r + 0.7151522 * g + 0.072175 * b);
  const z = f((0.0193339 * r + 0.119192 * g + 0.9503041 * b) / 1.08883);
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

const distance = (one: Rgb, other: Rgb): number => {
  const [a, b] = [lab(one), lab(other)];
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
};

const color = (table: Palette, index: number): Rgb => unpack(table.colors[index]);

describe.each(ALL)("%s %s %s", (sign, name, theme) => {
  const table = palette(sign, name, theme);

  test("marks share no color with data, nor with each other", () => {
    const marks = [NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY];
    for (const mark of marks) {
      for (let index = 0; index < STEPS; index++) expect(distance(color(table, mark), color(table, index))).toBeGreaterThan(15);
    }
    for (const mark of [...marks, CLIPPED_HIGH, CLIPPED_LOW]) {
      for (const other of [...marks, CLIPPED_HIGH, CLIPPED_LOW]) {
        if (mark !== other) expect(distance(color(table, mark), color(table, other))).toBeGreaterThan(5);
      }
    }
  });

  test("every color is opaque", () => {
    for (let index = 0; index < COLORS; index++) expect(table.colors[index] >>> 24).toBe(255);
  });
});

describe.each(THEMES)("diverging maps in %s", (theme) => {
  test.each(["orange-blue", "red-blue"])("%s: equal magnitudes are equally light, zero is neutral", (name) => {
    const table = palette("signed", name, theme);
    for (let step = 0; step <= ZERO; step++) {
      const [low] = lab(color(table, ZERO - step));
      const [high] = lab(color(table, ZERO + step));
      expect(Math.abs(low - high)).toBeLessThan(9);
    }
    const [lightness, green, blue] = lab(color(table, ZERO));
    expect(Math.hypot(green, blue)).toBeLessThan(1);
    if (theme === "light") expect(lightness).toBeGreaterThan(95);
    else expect(lightness).toBeLessThan(12);
  });

  test("the accent is no color of any map", () => {
    const tokens = readFileSync(new URL("../src/tokens.css", import.meta.url), "utf8");
    const accents = [...tokens.matchAll(/--accent: #([0-9a-f]{6})/g)].map((match) => Number.parseInt(match[1], 16));
    const accent = accents[theme === "light" ? 0 : 1];
    const own: Rgb = [accent >> 16, (accent >> 8) & 255, accent & 255];
    for (const [sign, name, each] of ALL.filter((entry) => entry[2] === theme)) {
      const table = palette(sign, name, each);
      for (let index = 0; index < STEPS; index++) expect(distance(own, color(table, index))).toBeGreaterThan(22);
    }
  });
});

test("the published ends of viridis and magma", () => {
  expect(color(palette("positive", "viridis", "dark"), 0)).toEqual([0x44, 0x01, 0x54]);
  expect(color(palette("positive", "viridis", "dark"), STEPS - 1)).toEqual([0xfd, 0xe7, 0x25]);
  expect(color(palette("positive", "magma", "light"), STEPS - 1)).toEqual([0xfc, 0xfd, 0xbf]);
});

test("page and library paint the same colors", () => {
  const golden = JSON.parse(readFileSync(new URL("../../tests/golden/palettes.json", import.meta.url), "utf8")) as Record<string, string>;
  expect(Object.keys(golden)).toHaveLength(ALL.length);
  for (const [sign, name, theme] of ALL) {
    const text = [...palette(sign, name, theme).colors]
      .map((value) => unpack(value).map((level) => level.toString(16).padStart(2, "0")).join(""))
      .join("");
    expect(text).toBe(golden[`${sign} ${name} ${theme}`]);
  }
});
