// All units of a layer in one small canvas, painted anew for every frame: no rows are kept, one buffer is.

import type { Palette } from "./colormap";
import { GAP, MARGIN, tileLeft, tileTop, type SheetLayout } from "./layout";
import { fit } from "./planes";
import { colorIndex, type Scale } from "./scale";
import { NUMBER_CELL, writeNumber } from "./sheet";
import { forEachPlane, paintTile, type TileSet } from "./tile";

export interface Strip {
  readonly tiles: TileSet;
  readonly layout: SheetLayout;
  readonly palette: Palette;
  readonly scaleOf: (index: number) => Scale;
  readonly density: number;
  readonly font: string;
  /** Place of the chosen unit, and its color; -1 for none. */
  readonly chosen: number;
  readonly accent: string;
}

/** From this much smaller to this much larger than asked for, so that rows come out full. */
const ROOM = [0.75, 1.15] as const;

/** The tile near a wanted size that needs the fewest rows, and of those the largest. */
export function evenTile(count: number, wanted: number, width: number): number {
  const gap = (tile: number) => (tile < 32 ? 4 : GAP);
  const room = Math.max(1, width) - 2 * MARGIN;
  const columnsOf = (tile: number) => Math.max(1, Math.floor((room + gap(tile)) / (tile + gap(tile))));
  const [smallest, largest] = ROOM.map((part) => Math.max(8, Math.round(part * wanted)));
  let best = largest;
  for (let tile = largest - 1; tile >= smallest; tile--) {
    if (Math.ceil(count / columnsOf(tile)) < Math.ceil(count / columnsOf(best))) best = tile;
  }
  return best;
}

export class StripPainter {
  private image: ImageData | null = null;

  constructor(private readonly canvas: HTMLCanvasElement) {}

  draw(strip: Strip, width: number): void {
    const { layout, density, tiles, palette, scaleOf } = strip;
    const [wide, high] = [Math.max(1, Math.round(width * density)), Math.max(1, Math.round(layout.height * density))];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    const context = this.canvas.getContext("2d");
    if (!context) return;
    if (this.image?.width !== wide || this.image.height !== high) this.image = new ImageData(wide, high);
    const pixels = { data: new Uint32Array(this.image.data.buffer), width: wide };
    pixels.data.fill(0);
    const side = Math.round(layout.tile * density);
    for (let place = 0; place < layout.count; place++) {
      const left = Math.min(wide - side, Math.round(tileLeft(layout, place) * density));
      const top = Math.min(high - side, Math.round(tileTop(layout, place) * density));
      if (left >= 0 && top >= 0) paintTile(pixels, left, top, side, tiles, place, scaleOf(place), palette);
    }
    context.putImageData(this.image, 0, 0);
    if (tiles.mode === "planes") writeNumbers(context, strip, side);
    if (strip.chosen >= 0 && strip.chosen < layout.count) drawChosen(context, strip);
  }
}

function writeNumbers(context: CanvasRenderingContext2D, strip: Strip, side: number): void {
  const { tiles, layout, density, palette, scaleOf, font } = strip;
  if (tiles.planes !== 1 || fit(tiles.rows, tiles.columns, side).width / tiles.columns < NUMBER_CELL * density) return;
  for (let place = 0; place < layout.count; place++) {
    const scale = scaleOf(place);
    forEachPlane(tiles, side, (_, { left, top, width, height }) => {
      for (let cell = 0; cell < tiles.count; cell++) {
        const value = tiles.data[place * tiles.stride + cell];
        const across = tileLeft(layout, place) * density + left + ((cell % tiles.columns) + 0.5) * (width / tiles.columns);
        const down = tileTop(layout, place) * density + top + (Math.floor(cell / tiles.columns) + 0.5) * (height / tiles.rows);
        writeNumber(context, value, across, down, palette.colors[colorIndex(value, scale)], density, font);
      }
    }, 1);
  }
}

function drawChosen(context: CanvasRenderingContext2D, { layout, density, chosen, accent }: Strip): void {
  context.strokeStyle = accent;
  context.lineWidth = 2 * density;
  const side = (layout.tile + 3) * density;
  context.strokeRect((tileLeft(layout, chosen) - 1.5) * density, (tileTop(layout, chosen) - 1.5) * density, side, side);
}
