// Where patches lie: blocks of several small pictures, one block per unit. Pure geometry, in CSS pixels.

import { MARGIN, type SheetLayout } from "./layout";

export interface BlockLayout {
  readonly count: number;
  readonly columns: number;
  readonly rows: number;
  readonly width: number;
  readonly height: number;
  /** From one block to the next. */
  readonly across: number;
  readonly down: number;
  /** Of all blocks together. */
  readonly total: number;
  /** Height of the line of words over the pictures; 0 for none. */
  readonly label: number;
  /** Pictures of a block: how many, how many side by side, their side, and from one to the next. */
  readonly cells: number;
  readonly line: number;
  readonly cell: number;
  readonly pitch: number;
}

export const LABEL = 20;
const GAP = 2;
const BETWEEN = 16;
const BELOW = 8;

/** The tiles of a sheet, each with one picture or with a square of them. */
export function tileBlocks(sheet: SheetLayout, cells: number): BlockLayout {
  const line = Math.ceil(Math.sqrt(cells));
  const gap = line > 1 ? 1 : 0;
  const cell = (sheet.tile - (line - 1) * gap) / line;
  const { count, columns, rows, tile, pitch, height } = sheet;
  return { count, columns, rows, width: tile, height: tile, across: pitch, down: pitch, total: height, label: 0, cells, line, cell, pitch: cell + gap };
}

/** Each unit's pictures in a line under its name; the pictures are about `wanted` large, so that the lines fill the width. */
export function lineBlocks(count: number, cells: number, wanted: number, width: number): BlockLayout {
  const room = Math.max(wanted, width - 2 * MARGIN);
  const line = Math.max(1, Math.min(cells, Math.floor((room + GAP) / (wanted + GAP))));
  const columns = Math.max(1, Math.round((room + BETWEEN) / (line * (wanted + GAP) - GAP + BETWEEN)));
  const cell = Math.max(8, Math.floor(((room + BETWEEN) / columns - BETWEEN + GAP) / line) - GAP);
  const pitch = cell + GAP;
  const wide = line * pitch - GAP;
  const high = LABEL + Math.ceil(cells / line) * pitch - GAP;
  const rows = Math.ceil(count / columns);
  const down = high + BELOW;
  return {
    count, columns, rows, width: wide, height: high, across: wide + BETWEEN, down,
    total: rows ? rows * down - BELOW + 2 * MARGIN : 0, label: LABEL, cells, line, cell, pitch,
  };
}

export const blockLeft = (layout: BlockLayout, place: number): number => MARGIN + (place % layout.columns) * layout.across;

export const blockTop = (layout: BlockLayout, place: number): number => MARGIN + Math.floor(place / layout.columns) * layout.down;

/** Where a block's picture begins, from the block's corner. */
export const cellCorner = ({ line, pitch, label }: BlockLayout, rank: number): [left: number, top: number] => [
  (rank % line) * pitch,
  label + Math.floor(rank / line) * pitch,
];

/** First and one past the last row of blocks in a window. */
export function blockRows(layout: BlockLayout, scroll: number, height: number): [first: number, end: number] {
  const first = Math.max(0, Math.floor((scroll - MARGIN) / layout.down));
  const end = Math.min(layout.rows, Math.ceil((scroll + height - MARGIN) / layout.down));
  return [Math.min(first, layout.rows), Math.max(first, end)];
}

/** The block under a point, and the picture in it; null between blocks. */
export function blockAt(layout: BlockLayout, left: number, top: number): { place: number; rank: number | null } | null {
  const column = Math.floor((left - MARGIN) / layout.across);
  const row = Math.floor((top - MARGIN) / layout.down);
  if (column < 0 || row < 0 || column >= layout.columns) return null;
  const place = row * layout.columns + column;
  const [inside, below] = [left - MARGIN - column * layout.across, top - MARGIN - row * layout.down];
  if (place >= layout.count || inside >= layout.width || below >= layout.height) return null;
  const [across, down] = [Math.floor(inside / layout.pitch), Math.floor((below - layout.label) / layout.pitch)];
  const rank = down * layout.line + across;
  const on = below >= layout.label && across < layout.line && rank < layout.cells;
  const within = inside - across * layout.pitch < layout.cell && below - layout.label - down * layout.pitch < layout.cell;
  return { place, rank: on && within ? rank : null };
}
