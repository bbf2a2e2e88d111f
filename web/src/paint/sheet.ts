// The contact sheet's canvas. A row of tiles is painted once and kept; scrolling only copies rows.

import { css, unpack, type Palette } from "./colormap";
import { MARGIN, tileLeft, tileTop, visibleRows, type SheetLayout } from "./layout";
import { formatCell } from "./number";
import { fit } from "./planes";
import { colorIndex, type Scale } from "./scale";
import { forEachPlane, paintTile, type TileSet } from "./tile";

/** Everything that decides the pixels. A new object repaints; the same one is only copied. */
export interface SheetContent {
  readonly tiles: TileSet;
  /** Tile index at each place. */
  readonly order: Int32Array;
  readonly layout: SheetLayout;
  readonly palette: Palette;
  readonly scaleOf: (index: number) => Scale;
  /** Device pixels per CSS pixel. */
  readonly density: number;
  readonly font: string;
}

export interface Mark {
  readonly place: number;
  readonly color: string;
  /** CSS pixels. */
  readonly width: number;
}

/** Numbers are written into cells from this many CSS pixels on. */
export const NUMBER_CELL = 28;

// Rows beyond the visible ones that stay painted, before and after.
const KEPT_ROWS = 48;

export class SheetPainter {
  private content: SheetContent | null = null;
  private rows = new Map<number, OffscreenCanvas>();

  constructor(private readonly canvas: HTMLCanvasElement) {}

  /** Draw what a window of `width` × `height` CSS pixels shows when scrolled to `scroll`. */
  draw(content: SheetContent, scroll: number, width: number, height: number, marks: readonly Mark[]): void {
    if (content !== this.content) {
      this.content = content;
      this.rows.clear();
    }
    const { density, layout } = content;
    const [wide, high] = [Math.max(1, Math.round(width * density)), Math.max(1, Math.round(height * density))];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.clearRect(0, 0, wide, high);
    const [first, end] = visibleRows(layout, scroll, height);
    for (let row = first; row < end; row++) {
      const top = Math.round((MARGIN + row * layout.pitch) * density) - Math.round(scroll * density);
      context.drawImage(this.paintedRow(row, content), 0, top);
    }
    for (const mark of marks) drawMark(context, content, scroll, mark);
    if (this.rows.size > end - first + 2 * KEPT_ROWS) {
      for (const row of this.rows.keys()) {
        if (row < first - KEPT_ROWS || row >= end + KEPT_ROWS) this.rows.delete(row);
      }
    }
  }

  private paintedRow(row: number, content: SheetContent): OffscreenCanvas {
    const known = this.rows.get(row);
    if (known) return known;
    const painted = paintRow(row, content);
    this.rows.set(row, painted);
    return painted;
  }
}

function paintRow(row: number, content: SheetContent): OffscreenCanvas {
  const { layout, density, tiles, order, palette, scaleOf } = content;
  const side = Math.round(layout.tile * density);
  const first = row * layout.columns;
  const end = Math.min(order.length, first + layout.columns);
  const width = Math.round(tileLeft(layout, end - 1) * density) + side;
  const image = new ImageData(width, side);
  const pixels = { data: new Uint32Array(image.data.buffer), width };
  for (let place = first; place < end; place++) {
    const index = order[place];
    paintTile(pixels, Math.round(tileLeft(layout, place) * density), 0, side, tiles, index, scaleOf(index), palette);
  }
  const canvas = new OffscreenCanvas(width, side);
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  context.putImageData(image, 0, 0);
  if (tiles.mode === "planes") {
    for (let place = first; place < end; place++) writeNumbers(context, content, place, side);
  }
  return canvas;
}

function writeNumbers(
  context: OffscreenCanvasRenderingContext2D,
  { tiles, order, layout, density, palette, scaleOf, font }: SheetContent,
  place: number,
  side: number,
): void {
  const shared = fit(tiles.rows, tiles.columns, side);
  if (shared.width / tiles.columns < NUMBER_CELL * density) return;
  const index = order[place];
  const start = Math.round(tileLeft(layout, place) * density);
  const scale = scaleOf(index);
  forEachPlane(tiles, side, (plane, { left, top, width, height }) => {
    const [wide, high] = [width / tiles.columns, height / tiles.rows];
    if (wide < NUMBER_CELL * density || high < NUMBER_CELL * density) return;
    for (let cell = 0; cell < tiles.count; cell++) {
      const value = tiles.data[index * tiles.stride + plane * tiles.rows * tiles.columns + cell];
      const across = start + left + ((cell % tiles.columns) + 0.5) * wide;
      const down = top + (Math.floor(cell / tiles.columns) + 0.5) * high;
      writeNumber(context, value, across, down, palette.colors[colorIndex(value, scale)], density, font);
    }
  }, tiles.planes);
}

/** One number in the middle of a cell, in black or white, whichever stands out more. */
export function writeNumber(
  context: OffscreenCanvasRenderingContext2D | CanvasRenderingContext2D,
  value: number,
  across: number,
  down: number,
  background: number,
  density: number,
  font: string,
): void {
  context.font = `${9 * density}px ${font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = isDark(background) ? "#fff" : "#000";
  context.fillText(formatCell(value), across, down);
}

/** Whether white text reads better than black on a color. */
export function isDark(color: number): boolean {
  const [red, green, blue] = unpack(color).map((level) => (level / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.18;
}

function drawMark(context: CanvasRenderingContext2D, { layout, density }: SheetContent, scroll: number, mark: Mark): void {
  const inset = mark.width / 2;
  const left = tileLeft(layout, mark.place) - 2 - inset;
  const top = tileTop(layout, mark.place) - scroll - 2 - inset;
  const side = layout.tile + 4 + mark.width;
  context.strokeStyle = mark.color;
  context.lineWidth = mark.width * density;
  context.beginPath();
  context.roundRect(left * density, top * density, side * density, side * density, 3 * density);
  context.stroke();
}

/** A legend's bar: the colors of a scale from its low to its high end. */
export function paintBar(canvas: HTMLCanvasElement, palette: Palette): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  for (let dot = 0; dot < canvas.width; dot++) {
    context.fillStyle = css(palette.colors[Math.round((dot / Math.max(1, canvas.width - 1)) * 256)]);
    context.fillRect(dot, 0, 1, canvas.height);
  }
}
