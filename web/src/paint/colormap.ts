// Value -> color. Signed maps are symmetric about 0 by construction; what isn't finite or was clipped has its own colors.

import { MAGMA, VIRIDIS } from "./ramps";

export type Theme = "light" | "dark";
export type Sign = "signed" | "positive";
export type SignedMap = "orange-blue" | "red-blue" | "gray";
export type PositiveMap = "viridis" | "magma" | "gray";

export const SIGNED_MAPS: readonly SignedMap[] = ["orange-blue", "red-blue", "gray"];
export const POSITIVE_MAPS: readonly PositiveMap[] = ["viridis", "magma", "gray"];

/** Colors 0…256 carry finite values (signed: 128 is exactly zero); the rest are marks. */
export const STEPS = 257;
export const ZERO = 128;
export const NAN = 257;
export const POSITIVE_INFINITY = 258;
export const NEGATIVE_INFINITY = 259;
export const CLIPPED_HIGH = 260;
export const CLIPPED_LOW = 261;
export const COLORS = 262;

export type Rgb = readonly [red: number, green: number, blue: number];

export interface Palette {
  readonly sign: Sign;
  readonly name: string;
  /** 0xAABBGGRR, the byte order of an ImageData on every machine that browsers run on. */
  readonly colors: Uint32Array;
}

export const pack = (red: number, green: number, blue: number): number =>
  ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

export const unpack = (color: number): Rgb => [color & 255, (color >> 8) & 255, (color >> 16) & 255];

export const css = (color: number): string => `rgb(${unpack(color).join(" ")})`;

// Hues far from every map's, from the accent's, and from each other (test/colormap.test.ts measures the distances).
const MARKS: Readonly<Record<number, Rgb>> = {
  [NAN]: [36, 214, 0],
  [POSITIVE_INFINITY]: [255, 20, 200],
  [NEGATIVE_INFINITY]: [0, 232, 226],
};

/** Oklch (lightness 0…1, chroma, hue in degrees) to sRGB; chroma is lowered until the color exists. */
export function oklch(lightness: number, chroma: number, hue: number): Rgb {
  const angle = (hue * Math.PI) / 180;
  for (let scale = 1; ; scale -= 0.02) {
    const a = chroma * scale * Math.cos(angle);
    const b = chroma * scale * Math.sin(angle);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    const linear = [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
    if (scale <= 0 || linear.every((value) => value >= -1e-4 && value <= 1.0001)) {
      const [red, green, blue] = linear.map((value) => {
        const bounded = Math.min(1, Math.max(0, value));
        const encoded = bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055;
        return Math.round(255 * encoded);
      });
      return [red, green, blue];
    }
  }
}

/** A diverging map: both arms walk through the same lightness, so that equal magnitudes look equally strong. */
function diverging(theme: Theme, negativeHue: number, positiveHue: number): Rgb[] {
  const [neutral, end, chroma] = theme === "light" ? [0.984, 0.44, 0.165] : [0.2, 0.83, 0.16];
  return Array.from({ length: STEPS }, (_, index) => {
    const value = (index - ZERO) / ZERO;
    const strength = Math.abs(value);
    const lightness = neutral + (end - neutral) * strength;
    return oklch(lightness, chroma * strength ** 0.85, value < 0 ? negativeHue : positiveHue);
  });
}

function ramp(hexadecimal: string): Rgb[] {
  const steps = Array.from({ length: hexadecimal.length / 6 }, (_, index): Rgb => {
    const value = Number.parseInt(hexadecimal.slice(6 * index, 6 * index + 6), 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  });
  return Array.from({ length: STEPS }, (_, index) => {
    const place = (index / (STEPS - 1)) * (steps.length - 1);
    const low = Math.floor(place);
    const high = Math.min(low + 1, steps.length - 1);
    const part = place - low;
    const mix = (channel: 0 | 1 | 2) => Math.round(steps[low][channel] * (1 - part) + steps[high][channel] * part);
    return [mix(0), mix(1), mix(2)];
  });
}

const gray = (): Rgb[] =>
  Array.from({ length: STEPS }, (_, index) => {
    const level = Math.round((255 * index) / (STEPS - 1));
    return [level, level, level];
  });

function steps(sign: Sign, name: string, theme: Theme): Rgb[] {
  if (name === "gray") return gray();
  if (sign === "positive") return ramp(name === "magma" ? MAGMA : VIRIDIS);
  return name === "red-blue" ? diverging(theme, 22, 262) : diverging(theme, 58, 250);
}

// Clipped values step out of the map's own range of lightness, on the side they left it.
function clipped(sign: Sign, name: string, theme: Theme): [high: Rgb, low: Rgb] {
  if (name === "gray") return [[255, 236, 92], [72, 60, 0]];
  if (sign === "positive") return name === "viridis" ? [[255, 255, 255], [0, 0, 0]] : [[255, 255, 255], [0, 0, 70]];
  return theme === "light" ? [oklch(0.22, 0.09, 262), oklch(0.22, 0.08, 45)] : [oklch(0.96, 0.04, 230), oklch(0.96, 0.05, 85)];
}

const palettes = new Map<string, Palette>();

/** The color table of a map in a theme; made once. */
export function palette(sign: Sign, name: string, theme: Theme): Palette {
  const key = `${sign} ${name} ${theme}`;
  const known = palettes.get(key);
  if (known) return known;
  const colors = new Uint32Array(COLORS);
  steps(sign, name, theme).forEach((color, index) => (colors[index] = pack(...color)));
  for (const [mark, color] of Object.entries(MARKS)) colors[Number(mark)] = pack(...color);
  const [high, low] = clipped(sign, name, theme);
  colors[CLIPPED_HIGH] = pack(...high);
  colors[CLIPPED_LOW] = pack(...low);
  const made = { sign, name, colors };
  palettes.set(key, made);
  return made;
}
