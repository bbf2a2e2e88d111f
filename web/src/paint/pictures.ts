// Pictures out of Views: bytes of red, green and blue as they are, and signed numbers as colors about mid-gray.

import { NAN, pack, type Palette } from "./colormap";
import { colorLevel } from "./planes";
import { magnitudeQuantile } from "./scale";

/** `rows` × `columns` pixels from `offset` on, colors side by side ([row, column, color]). */
export interface Picture {
  readonly data: ArrayLike<number>;
  readonly offset: number;
  readonly rows: number;
  readonly columns: number;
  readonly colors: number;
}

/** Bytes 0 … 255 as pixels; one color is gray. */
export function bytePixels({ data, offset, rows, columns, colors }: Picture): Uint32Array {
  const pixels = new Uint32Array(rows * columns);
  for (let cell = 0; cell < pixels.length; cell++) {
    const at = offset + cell * colors;
    pixels[cell] = colors >= 3 ? pack(data[at], data[at + 1], data[at + 2]) : pack(data[at], data[at], data[at]);
  }
  return pixels;
}

// The strongest half percent saturates: a few values would otherwise make all others pale.
const MOST = 0.995;

/** The magnitude that all but the strongest half percent of a picture's numbers (zeros left out) don't exceed. */
export function pictureLimit({ data, offset, rows, columns, colors }: Picture): number {
  const values: number[] = [];
  for (let at = offset; at < offset + rows * columns * colors; at++) if (data[at] !== 0) values.push(data[at]);
  return magnitudeQuantile(values, MOST);
}

/** Signed numbers as pixels: each color is mid-gray at 0, dark at −limit, bright at +limit; NaN has its own mark. */
export function signedPixels(picture: Picture, limit: number, palette: Palette): Uint32Array {
  const { data, offset, rows, columns, colors } = picture;
  const pixels = new Uint32Array(rows * columns);
  for (let cell = 0; cell < pixels.length; cell++) {
    const at = offset + cell * colors;
    const values = colors >= 3 ? [data[at], data[at + 1], data[at + 2]] : [data[at], data[at], data[at]];
    if (values.some(Number.isNaN)) pixels[cell] = palette.colors[NAN];
    else pixels[cell] = pack(colorLevel(values[0], limit), colorLevel(values[1], limit), colorLevel(values[2], limit));
  }
  return pixels;
}

/** [channel, row, column] -> the same numbers as [row, column, color]. */
export function channelsLast(data: ArrayLike<number>, offset: number, channels: number, rows: number, columns: number): Picture {
  const size = rows * columns;
  const turned = new Float32Array(channels * size);
  for (let channel = 0; channel < channels; channel++) {
    for (let cell = 0; cell < size; cell++) turned[cell * channels + channel] = data[offset + channel * size + cell];
  }
  return { data: turned, offset: 0, rows, columns, colors: channels };
}

/** The smallest box that holds everything that isn't zero; null where all is. */
export function extentOf({ data, offset, rows, columns, colors }: Picture): { row: number; column: number; rows: number; columns: number } | null {
  let [top, left, bottom, right] = [rows, columns, -1, -1];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = offset + (row * columns + column) * colors;
      let some = false;
      for (let color = 0; color < colors; color++) some ||= data[at + color] !== 0;
      if (!some) continue;
      top = Math.min(top, row);
      bottom = Math.max(bottom, row);
      left = Math.min(left, column);
      right = Math.max(right, column);
    }
  }
  return bottom < 0 ? null : { row: top, column: left, rows: bottom - top + 1, columns: right - left + 1 };
}

/** The part of a picture inside a box; what lies outside of the picture is left out. */
export function cropped(picture: Picture, top: number, left: number, rows: number, columns: number): Picture {
  const [first, start] = [Math.max(0, Math.floor(top)), Math.max(0, Math.floor(left))];
  const high = Math.max(1, Math.min(picture.rows, Math.ceil(top + rows)) - first);
  const wide = Math.max(1, Math.min(picture.columns, Math.ceil(left + columns)) - start);
  const { colors } = picture;
  const data = new Float32Array(high * wide * colors);
  for (let row = 0; row < high; row++) {
    for (let at = 0; at < wide * colors; at++) {
      data[row * wide * colors + at] = picture.data[picture.offset + ((first + row) * picture.columns + start) * colors + at];
    }
  }
  return { data, offset: 0, rows: high, columns: wide, colors };
}

/** Put pixels onto a canvas of exactly their size; the style sheet says how large it is shown. */
export function putPixels(canvas: HTMLCanvasElement | OffscreenCanvas, pixels: Uint32Array, rows: number, columns: number): void {
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  const context = canvas.getContext("2d") as CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D | null;
  if (!context) return;
  const image = new ImageData(columns, rows);
  new Uint32Array(image.data.buffer).set(pixels);
  context.putImageData(image, 0, 0);
}

/** Squares in one picture, one per row and column: what a wall of pictures copies from. */
export function picturesInSquares(
  pictures: readonly (readonly ({ pixels: Uint32Array; rows: number; columns: number } | null)[])[],
  side: number,
): OffscreenCanvas {
  const across = Math.max(1, ...pictures.map((line) => line.length));
  const whole = new OffscreenCanvas(across * side, Math.max(1, pictures.length * side));
  const context = whole.getContext("2d");
  if (!context) return whole;
  const one = new OffscreenCanvas(1, 1);
  context.imageSmoothingQuality = "high";
  pictures.forEach((line, row) =>
    line.forEach((picture, column) => {
      if (!picture) return;
      putPixels(one, picture.pixels, picture.rows, picture.columns);
      const scale = Math.min(side / picture.columns, side / picture.rows);
      context.imageSmoothingEnabled = scale < 1;
      const [wide, high] = [picture.columns * scale, picture.rows * scale];
      context.drawImage(one, column * side + (side - wide) / 2, row * side + (side - high) / 2, wide, high);
    }),
  );
  return whole;
}
