// Planes onto a small canvas of their own: kernels, slices, maps, patches.

import { colorIndex, type Scale } from "./scale";
import type { Palette } from "./colormap";
import { paintColor, paintPlane, type Plane } from "./planes";
import { NUMBER_CELL, writeNumber } from "./sheet";

export interface Picture {
  readonly planes: readonly Plane[];
  /** "color": the first three planes as red, green and blue in one. */
  readonly mode: "planes" | "color";
  readonly scale: Scale;
  readonly palette: Palette;
  /** CSS pixels of one plane, and of the gap to the next. */
  readonly width: number;
  readonly height: number;
  readonly gap: number;
  readonly across: number;
  /** Extra CSS pixels below each plane, for labels beside the canvas. */
  readonly below: number;
}

export function pictureSize({ planes, mode, width, height, gap, across, below }: Picture): [width: number, height: number] {
  const count = mode === "color" ? 1 : planes.length;
  const columns = Math.min(across, Math.max(1, count));
  const rows = Math.ceil(count / columns);
  return [columns * (width + gap) - gap, rows * (height + below + gap) - gap];
}

/** Where plane number `index` begins, in CSS pixels. */
export function planePlace({ width, height, gap, across, below }: Picture, index: number): [left: number, top: number] {
  return [(index % across) * (width + gap), Math.floor(index / across) * (height + below + gap)];
}

export function paintPicture(canvas: HTMLCanvasElement, picture: Picture, density: number, font: string): void {
  const [cssWidth, cssHeight] = pictureSize(picture);
  canvas.style.width = `${cssWidth}px`;
  canvas.style.height = `${cssHeight}px`;
  canvas.width = Math.max(1, Math.round(cssWidth * density));
  canvas.height = Math.max(1, Math.round(cssHeight * density));
  const context = canvas.getContext("2d");
  if (!context || picture.planes.length === 0) return;
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = { data: new Uint32Array(image.data.buffer), width: canvas.width };
  const size = { width: Math.round(picture.width * density), height: Math.round(picture.height * density) };
  const { mode, planes, scale, palette } = picture;
  const place = (index: number) => {
    const [left, top] = planePlace(picture, index);
    return {
      left: Math.min(canvas.width - size.width, Math.round(left * density)),
      top: Math.min(canvas.height - size.height, Math.round(top * density)),
      ...size,
    };
  };
  if (mode === "color") paintColor(pixels, place(0), planes[0], planes[1].offset - planes[0].offset, scale.limit, palette);
  else planes.forEach((plane, index) => paintPlane(pixels, place(index), plane, scale, palette));
  context.putImageData(image, 0, 0);
  if (mode === "planes") planes.forEach((plane, index) => writeCells(context, plane, place(index), picture, density, font));
}

function writeCells(
  context: CanvasRenderingContext2D,
  { data, offset, rows, columns, count = rows * columns }: Plane,
  place: { left: number; top: number; width: number; height: number },
  { scale, palette }: Picture,
  density: number,
  font: string,
): void {
  const [wide, high] = [place.width / columns, place.height / rows];
  if (Math.min(wide, high) < NUMBER_CELL * density) return;
  for (let cell = 0; cell < count; cell++) {
    const value = data[offset + cell];
    const across = place.left + ((cell % columns) + 0.5) * wide;
    const down = place.top + (Math.floor(cell / columns) + 0.5) * high;
    writeNumber(context, value, across, down, palette.colors[colorIndex(value, scale)], density, font);
  }
}

/** A map laid over a photo: the palette's color, as opaque as the value is strong. */
export function paintOverlay(canvas: HTMLCanvasElement, plane: Plane, scale: Scale, palette: Palette): void {
  canvas.width = plane.columns;
  canvas.height = plane.rows;
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = new ImageData(plane.columns, plane.rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let cell = 0; cell < pixels.length; cell++) {
    const value = plane.data[plane.offset + cell];
    const color = palette.colors[colorIndex(value, scale)];
    const strength = Number.isFinite(value) && scale.limit > 0 ? Math.min(1, Math.abs(value) / scale.limit) : 1;
    const opacity = Number.isFinite(value) ? Math.round(235 * strength ** 0.7) : 255;
    pixels[cell] = ((color & 0x00ffffff) | (opacity << 24)) >>> 0;
  }
  context.putImageData(image, 0, 0);
}
