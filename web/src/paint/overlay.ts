// A map of an image over the image itself. The photo is gray and pale, so that every color on it is the map's.

import { pack, unpack, type Palette, type Theme } from "./colormap";
import { areaMean, type Pixels, type Plane, type Rectangle } from "./planes";
import { colorIndex, type Scale } from "./scale";

/** What is shown of a map and its photo. */
export type OverlayMode = "over" | "map" | "photo";

const PALE = 0.45;
// Weak values stay visible without hiding the photo under them.
const ROOT = 0.6;

/** The lightness, 0 to 255, of a picture [row, column, color]. */
export function luminance(data: ArrayLike<number>, offset: number, rows: number, columns: number, colors: number): Plane {
  const gray = new Float32Array(rows * columns);
  for (let cell = 0; cell < gray.length; cell++) {
    const at = offset + cell * colors;
    gray[cell] = colors >= 3 ? 0.2126 * data[at] + 0.7152 * data[at + 1] + 0.0722 * data[at + 2] : data[at];
  }
  return { data: gray, offset: 0, rows, columns };
}

/** Toward the page's ground: white in the light theme, black in the dark one. */
export const pale = (gray: number, theme: Theme): number => (theme === "light" ? 255 - (255 - gray) * PALE : gray * PALE);

/** How much of the map's color covers the photo: nothing at zero, all of it at the scale's end and for what isn't finite. */
export function coverage(value: number, scale: Scale): number {
  if (!Number.isFinite(value)) return 1;
  return scale.limit > 0 ? Math.min(1, Math.abs(value) / scale.limit) ** ROOT : 0;
}

/** Beyond the scale's end a map keeps its last color: the legend counts what lies there. */
function within(value: number, { sign, limit }: Scale): number {
  if (!Number.isFinite(value)) return value;
  return Math.min(limit, Math.max(sign === "signed" ? -limit : 0, value));
}

type Sampler = (line: number, dot: number) => number;

const nearest = (plane: Plane, high: number, wide: number): Sampler => (line, dot) =>
  plane.data[plane.offset + Math.floor((line + 0.5) * high) * plane.columns + Math.floor((dot + 0.5) * wide)];

/** Of a photo: the cell under a pixel when enlarged, the mean of those under it when reduced. */
function sampler(plane: Plane, place: Rectangle): Sampler {
  const [high, wide] = [plane.rows / place.height, plane.columns / place.width];
  if (high <= 1 && wide <= 1) return nearest(plane, high, wide);
  return (line, dot) => areaMean(plane, 0, line * high, (line + 1) * high, dot * wide, (dot + 1) * wide);
}

/**
 * Of a map: when reduced, the strongest value under a pixel. Gradients change their sign from cell to cell; their mean
 * would show nothing where there is most.
 */
function strongest(plane: Plane, place: Rectangle): Sampler {
  const { data, offset, rows, columns } = plane;
  const [high, wide] = [rows / place.height, columns / place.width];
  if (high <= 1 && wide <= 1) return nearest(plane, high, wide);
  return (line, dot) => {
    const [top, left] = [Math.floor(line * high), Math.floor(dot * wide)];
    const bottom = Math.max(top + 1, Math.min(rows, Math.ceil((line + 1) * high - 1e-9)));
    const right = Math.max(left + 1, Math.min(columns, Math.ceil((dot + 1) * wide - 1e-9)));
    let found = 0;
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const value = data[offset + row * columns + column];
        if (Number.isNaN(value)) return value;
        if (Math.abs(value) > Math.abs(found)) found = value;
      }
    }
    return found;
  };
}

/** Paint a map over its photo. Either may have its own number of rows and columns; both cover the whole rectangle. */
export function paintOver(
  target: Pixels,
  place: Rectangle,
  photo: Plane | null,
  map: Plane,
  scale: Scale,
  palette: Palette,
  theme: Theme,
): void {
  const value = strongest(map, place);
  const gray = photo ? sampler(photo, place) : () => (theme === "light" ? 255 : 0);
  for (let line = 0; line < place.height; line++) {
    const first = (place.top + line) * target.width + place.left;
    for (let dot = 0; dot < place.width; dot++) {
      const number = value(line, dot);
      const part = coverage(number, scale);
      const ground = (1 - part) * pale(gray(line, dot), theme);
      const [red, green, blue] = unpack(palette.colors[colorIndex(within(number, scale), scale)]);
      target.data[first + dot] = pack(
        Math.round(ground + part * red),
        Math.round(ground + part * green),
        Math.round(ground + part * blue),
      );
    }
  }
}

export interface Overlay {
  readonly mode: OverlayMode;
  readonly photo: Plane | null;
  readonly map: Plane;
  readonly scale: Scale;
  readonly palette: Palette;
  readonly theme: Theme;
}

/** The map alone when `mode` is "map"; over its photo otherwise. */
export function paintOverlayPixels(target: Pixels, place: Rectangle, overlay: Overlay): void {
  const { mode, photo, map, scale, palette, theme } = overlay;
  if (mode === "photo" && photo) {
    const gray = sampler(photo, place);
    for (let line = 0; line < place.height; line++) {
      const first = (place.top + line) * target.width + place.left;
      for (let dot = 0; dot < place.width; dot++) {
        const level = Math.round(gray(line, dot));
        target.data[first + dot] = pack(level, level, level);
      }
    }
    return;
  }
  if (mode === "map") {
    const value = strongest(map, place);
    for (let line = 0; line < place.height; line++) {
      const first = (place.top + line) * target.width + place.left;
      for (let dot = 0; dot < place.width; dot++) target.data[first + dot] = palette.colors[colorIndex(within(value(line, dot), scale), scale)];
    }
    return;
  }
  paintOver(target, place, photo, map, scale, palette, theme);
}

/** Onto a canvas of so many CSS pixels. */
export function paintOverlayCanvas(canvas: HTMLCanvasElement, overlay: Overlay, width: number, height: number, density: number): void {
  const [wide, high] = [Math.max(1, Math.round(width * density)), Math.max(1, Math.round(height * density))];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = new ImageData(wide, high);
  paintOverlayPixels({ data: new Uint32Array(image.data.buffer), width: wide }, { left: 0, top: 0, width: wide, height: high }, overlay);
  context.putImageData(image, 0, 0);
}
