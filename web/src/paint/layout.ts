// Where things lie: tiles in a sheet, slices in a tile, cells in a slice. Pure geometry, in CSS pixels unless said.

export interface SheetLayout {
  readonly count: number;
  readonly columns: number;
  readonly rows: number;
  /** Side of a tile, and from one tile to the next. */
  readonly tile: number;
  readonly pitch: number;
  readonly height: number;
}

export const GAP = 8;
export const MARGIN = 4;

// What "fit" means: neither so small that nothing is seen, nor so large that a few units fill the screen.
const SMALLEST_FIT = 48;
const LARGEST_FIT = 144;

/** The largest tile with which all of `count` fit a window, and a row of them its width; else the smallest such. */
export function fittingTile(count: number, width: number, height: number): number {
  const room = Math.max(1, width) - 2 * MARGIN + GAP;
  const most = Math.max(1, Math.floor(room / (SMALLEST_FIT + GAP)));
  for (let columns = Math.max(1, Math.floor(room / (LARGEST_FIT + GAP))); columns < most; columns++) {
    const tile = fillingTile(columns, width);
    if (sheetLayout(count, tile, width).height <= height) return count < columns ? Math.min(LARGEST_FIT, tile) : tile;
  }
  return Math.max(SMALLEST_FIT, fillingTile(most, width));
}

/** The tile of which so many fill a row. */
export const fillingTile = (columns: number, width: number): number => Math.floor((width - 2 * MARGIN + GAP) / columns) - GAP;

/** As many tiles per row as fit a width. */
export function sheetLayout(count: number, tile: number, width: number): SheetLayout {
  const gap = tile < 32 ? 4 : GAP;
  const pitch = tile + gap;
  const columns = Math.max(1, Math.floor((width - 2 * MARGIN + gap) / pitch));
  const rows = Math.ceil(count / columns);
  return { count, columns, rows, tile, pitch, height: rows ? rows * pitch - gap + 2 * MARGIN : 0 };
}

export const tileLeft = (layout: SheetLayout, place: number): number =>
  MARGIN + (place % layout.columns) * layout.pitch;

export const tileTop = (layout: SheetLayout, place: number): number =>
  MARGIN + Math.floor(place / layout.columns) * layout.pitch;

/** The tile under a point of the sheet, and the point inside it; null in a gap. */
export function tileAt(
  layout: SheetLayout,
  horizontal: number,
  vertical: number,
): { place: number; left: number; top: number } | null {
  const column = Math.floor((horizontal - MARGIN) / layout.pitch);
  const row = Math.floor((vertical - MARGIN) / layout.pitch);
  if (column < 0 || row < 0 || column >= layout.columns) return null;
  const place = row * layout.columns + column;
  const left = horizontal - MARGIN - column * layout.pitch;
  const top = vertical - MARGIN - row * layout.pitch;
  if (place >= layout.count || left >= layout.tile || top >= layout.tile) return null;
  return { place, left, top };
}

/** First and one past the last row of tiles that a window shows. */
export function visibleRows(layout: SheetLayout, scroll: number, height: number): [first: number, end: number] {
  const first = Math.max(0, Math.floor((scroll - MARGIN) / layout.pitch));
  const end = Math.min(layout.rows, Math.ceil((scroll + height - MARGIN) / layout.pitch));
  return [first, Math.max(first, end)];
}

export type Step = "left" | "right" | "up" | "down" | "first" | "last" | "page-up" | "page-down";

/** Where a key leads in a grid; stays inside. */
export function stepInGrid(place: number, step: Step, count: number, columns: number, pageRows = 1): number {
  if (count === 0) return 0;
  const within = (target: number) => (target >= 0 && target < count ? target : place);
  switch (step) {
    case "left":
      return Math.max(0, place - 1);
    case "right":
      return Math.min(count - 1, place + 1);
    case "up":
      return within(place - columns);
    case "down":
      return place + columns < count
        ? place + columns
        : Math.floor(place / columns) < Math.floor((count - 1) / columns)
          ? count - 1
          : place;
    case "page-up":
      return Math.max(place % columns, place - pageRows * columns);
    case "page-down":
      return Math.min(count - 1, place + pageRows * columns);
    case "first":
      return 0;
    case "last":
      return count - 1;
  }
}

export interface SliceGrid {
  readonly columns: number;
  readonly rows: number;
  /** Side of one slice and of the gap between two, in the unit of `side`. */
  readonly slice: number;
  readonly gap: number;
  /** Where the first slice begins, so that the grid is centered. */
  readonly start: number;
}

/** Slices in a square tile: as near to a square as it gets. */
export function sliceGrid(slices: number, side: number, larger: number): SliceGrid {
  const columns = Math.max(1, Math.ceil(Math.sqrt(slices)));
  const rows = Math.ceil(slices / columns);
  const gap = columns === 1 ? 0 : Math.max(1, Math.round(side / 48));
  let slice = Math.max(1, Math.floor((side - (columns - 1) * gap) / columns));
  const exact = Math.floor(slice / larger) * larger;
  if (exact >= 0.82 * slice) slice = exact;
  return { columns, rows, slice, gap, start: Math.max(0, Math.floor((side - columns * slice - (columns - 1) * gap) / 2)) };
}
