// The canvas of patches. A row of blocks is painted once, and again while pictures of it are still missing.

import { blockLeft, blockRows, blockTop, cellCorner, type BlockLayout } from "./blocks";
import type { Mark } from "./sheet";

/** A unit's pictures: row `row` of an atlas whose squares have `side` pixels. */
export interface PatchSource {
  readonly picture: CanvasImageSource;
  readonly row: number;
  readonly side: number;
  readonly ranks: number;
  readonly fit: "exact" | "scaled" | "old";
}

/** Everything that decides the pixels, but for which pictures are here already. */
export interface PatchContent {
  readonly layout: BlockLayout;
  /** The unit at each place. */
  readonly units: ArrayLike<number>;
  readonly find: (unit: number) => PatchSource | null;
  /** How many patches a unit has. */
  readonly filled: (unit: number) => number;
  /** Units that never answered: their patches show nothing they respond to. */
  readonly silent: (unit: number) => boolean;
  /** A natural patch that stands small in the corner of a unit's picture, where there is one picture only. */
  readonly inset?: (unit: number) => PatchSource | null;
  /** What stands over a block: its name and, at the other end, a remark. */
  readonly label: ((unit: number) => { name: string; remark: string }) | null;
  readonly density: number;
  readonly font: string;
  readonly words: string;
  readonly colors: { readonly void: string; readonly ink: string; readonly quiet: string };
}

/** A mark may be around one picture of a block. */
export interface PatchMark extends Mark {
  readonly rank?: number | null;
}

interface PaintedRow {
  readonly canvas: OffscreenCanvas;
  complete: boolean;
}

const KEPT_ROWS = 24;
const OLD = 0.35;
const SILENT = 0.3;
// Of a picture's side; from so many CSS pixels on there is room for it.
const INSET = 0.36;
const INSET_FROM = 44;

export class PatchPainter {
  private content: PatchContent | null = null;
  private rows = new Map<number, PaintedRow>();

  constructor(private readonly canvas: HTMLCanvasElement) {}

  /**
   * Draw a window of `width` × `height` CSS pixels scrolled to `scroll`; true when nothing in it is missing.
   *
   * @param swapped the place that shows its natural patch large instead of its picture
   */
  draw(content: PatchContent, scroll: number, width: number, height: number, marks: readonly PatchMark[], swapped = -1): boolean {
    if (content !== this.content) {
      this.content = content;
      this.rows.clear();
    }
    const { density, layout } = content;
    const [wide, high] = [Math.max(1, Math.round(width * density)), Math.max(1, Math.round(height * density))];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    const context = this.canvas.getContext("2d");
    if (!context) return false;
    context.clearRect(0, 0, wide, high);
    const [first, end] = blockRows(layout, scroll, height);
    let complete = true;
    for (let row = first; row < end; row++) {
      const painted = this.painted(row, content);
      complete &&= painted.complete;
      const top = Math.round(blockTop(layout, row * layout.columns) * density) - Math.round(scroll * density);
      context.drawImage(painted.canvas, 0, top);
    }
    if (swapped >= 0 && swapped < layout.count) drawNatural(context, content, scroll, swapped);
    for (const mark of marks) drawMark(context, content, scroll, mark);
    if (this.rows.size > end - first + 2 * KEPT_ROWS) {
      for (const row of this.rows.keys()) if (row < first - KEPT_ROWS || row >= end + KEPT_ROWS) this.rows.delete(row);
    }
    return complete;
  }

  private painted(row: number, content: PatchContent): PaintedRow {
    let painted = this.rows.get(row);
    if (painted?.complete) return painted;
    if (!painted) {
      const { layout, density } = content;
      const last = Math.min(layout.count, (row + 1) * layout.columns) - 1;
      const width = Math.ceil((blockLeft(layout, last) + layout.width) * density);
      painted = { canvas: new OffscreenCanvas(width, Math.max(1, Math.round(layout.height * density))), complete: false };
      this.rows.set(row, painted);
    }
    painted.complete = paintRow(painted.canvas, row, content);
    return painted;
  }
}

function paintRow(canvas: OffscreenCanvas, row: number, content: PatchContent): boolean {
  const context = canvas.getContext("2d");
  if (!context) return true;
  const { layout, units } = content;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "medium";
  let complete = true;
  for (let place = row * layout.columns; place < Math.min(layout.count, (row + 1) * layout.columns); place++) {
    const left = blockLeft(layout, place);
    const found = content.find(units[place]);
    if (content.label) writeLabel(context, content, left, content.label(units[place]));
    paintCells(context, content, left, units[place], found);
    complete &&= found?.fit === "exact" || content.filled(units[place]) === 0;
  }
  return complete;
}

function paintCells(
  context: OffscreenCanvasRenderingContext2D,
  content: PatchContent,
  left: number,
  unit: number,
  found: PatchSource | null,
): void {
  const { layout, density, colors } = content;
  const filled = Math.min(layout.cells, content.filled(unit));
  const silent = content.silent(unit);
  for (let rank = 0; rank < layout.cells; rank++) {
    const [across, down] = cellCorner(layout, rank);
    const [start, top] = [Math.round((left + across) * density), Math.round(down * density)];
    const wide = Math.round((left + across + layout.cell) * density) - start;
    const high = Math.round((down + layout.cell) * density) - top;
    context.globalAlpha = 1;
    context.fillStyle = colors.void;
    if (rank < filled || layout.cells === 1) context.fillRect(start, top, wide, high);
    if (!found || rank >= filled || rank >= found.ranks) continue;
    context.globalAlpha = (found.fit === "old" ? OLD : 1) * (silent ? SILENT : 1);
    context.drawImage(found.picture, rank * found.side, found.row * found.side, found.side, found.side, start, top, wide, high);
  }
  context.globalAlpha = 1;
  const natural = layout.cells === 1 && layout.cell >= INSET_FROM ? content.inset?.(unit) : null;
  if (!natural) return;
  const [across, down] = cellCorner(layout, 0);
  const side = Math.round(INSET * layout.cell * density);
  const edge = Math.max(1, Math.round(density));
  const [right, bottom] = [Math.round((left + across + layout.cell) * density), Math.round((down + layout.cell) * density)];
  context.fillStyle = colors.void;
  context.fillRect(right - side - 2 * edge, bottom - side - 2 * edge, side + 2 * edge, side + 2 * edge);
  context.drawImage(natural.picture, 0, natural.row * natural.side, natural.side, natural.side, right - side, bottom - side, side, side);
}

function drawNatural(context: CanvasRenderingContext2D, content: PatchContent, scroll: number, place: number): void {
  const { layout, density, units, colors } = content;
  const natural = content.inset?.(units[place]);
  if (!natural) return;
  const [left, top] = [blockLeft(layout, place), blockTop(layout, place) - scroll].map((value) => Math.round(value * density));
  const [wide, high] = [layout.width, layout.height].map((value) => Math.round(value * density));
  context.fillStyle = colors.void;
  context.fillRect(left, top, wide, high);
  context.imageSmoothingQuality = "medium";
  context.drawImage(natural.picture, 0, natural.row * natural.side, natural.side, natural.side, left, top, wide, high);
}

function writeLabel(
  context: OffscreenCanvasRenderingContext2D,
  { layout, density, font, words, colors }: PatchContent,
  left: number,
  { name, remark }: { name: string; remark: string },
): void {
  const baseline = 14 * density;
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.font = `600 ${11 * density}px ${font}`;
  context.fillStyle = colors.ink;
  context.fillText(name, left * density, baseline);
  const taken = context.measureText(name).width + 8 * density;
  const room = layout.width * density - taken;
  context.font = `${11 * density}px ${words}`;
  context.fillStyle = colors.quiet;
  context.fillText(shortened(context, remark, room), left * density + taken, baseline);
}

/** As much of a text as fits. */
function shortened(context: OffscreenCanvasRenderingContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 0 && context.measureText(`${text.slice(0, end)}…`).width > room) end = Math.min(end - 1, Math.floor(end * 0.9));
  return end > 0 ? `${text.slice(0, end).trimEnd()}…` : "";
}

function drawMark(context: CanvasRenderingContext2D, { layout, density }: PatchContent, scroll: number, mark: PatchMark): void {
  const whole = mark.rank === undefined || mark.rank === null;
  const [across, down] = whole ? [0, 0] : cellCorner(layout, mark.rank as number);
  const away = (whole && layout.label === 0 ? 2 : whole ? 3 : 0) + mark.width / 2;
  const left = blockLeft(layout, mark.place) + across - away;
  const top = blockTop(layout, mark.place) + down - scroll - away;
  const [wide, high] = whole ? [layout.width, layout.height] : [layout.cell, layout.cell];
  context.strokeStyle = mark.color;
  context.lineWidth = mark.width * density;
  context.beginPath();
  context.roundRect(left * density, top * density, (wide + 2 * away) * density, (high + 2 * away) * density, 3 * density);
  context.stroke();
}
