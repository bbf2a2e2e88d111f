// A confusion matrix: rows are true classes, columns what they were taken for; the diagonal is what is right.

import { palette, type Theme } from "./colormap";
import { isDark } from "./sheet";
import { unpack } from "./colormap";

export interface Matrix {
  readonly counts: readonly (readonly number[])[];
  readonly side: number;
  readonly density: number;
  readonly theme: Theme;
  readonly map: string;
  readonly font: string;
  readonly accent: string;
  readonly chosen: readonly [row: number, column: number] | null;
}

/** Cells from this many CSS pixels on carry their counts. */
const NUMBERS = 20;

/** Each cell as a part of its row: 0 … 1. */
export function rowParts(counts: readonly (readonly number[])[]): number[][] {
  return counts.map((row) => {
    const sum = row.reduce((total, count) => total + count, 0);
    return row.map((count) => (sum ? count / sum : 0));
  });
}

/** The mistakes made most often: [true class, predicted class, count], the largest first. */
export function largestMistakes(counts: readonly (readonly number[])[], most: number): [number, number, number][] {
  const found: [number, number, number][] = [];
  counts.forEach((row, truth) =>
    row.forEach((count, predicted) => {
      if (truth !== predicted && count > 0) found.push([truth, predicted, count]);
    }),
  );
  return found.sort((one, other) => other[2] - one[2] || one[0] - other[0] || one[1] - other[1]).slice(0, most);
}

export function paintMatrix(canvas: HTMLCanvasElement, matrix: Matrix): void {
  const { counts, side, density, theme, map, font, accent, chosen } = matrix;
  const classes = counts.length;
  const size = Math.round(side * density);
  canvas.width = size;
  canvas.height = size;
  const context = canvas.getContext("2d");
  if (!context || !classes) return;
  const { colors } = palette("positive", map, theme);
  const parts = rowParts(counts);
  const cell = size / classes;
  const at = (index: number) => Math.round(index * cell);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = `${Math.min(11, cell / density / 2.2) * density}px ${font}`;
  for (let row = 0; row < classes; row++) {
    for (let column = 0; column < classes; column++) {
      // Rare mistakes are what one looks for: the root lifts them out of the dark.
      const color = colors[Math.round(256 * Math.sqrt(parts[row][column]))];
      context.fillStyle = `rgb(${unpack(color).join(" ")})`;
      context.fillRect(at(column), at(row), at(column + 1) - at(column) - (cell > 6 ? 1 : 0), at(row + 1) - at(row) - (cell > 6 ? 1 : 0));
      const count = counts[row][column];
      if (cell < NUMBERS * density || count === 0) continue;
      context.fillStyle = isDark(color) ? "#fff" : "#000";
      context.fillText(count > 9999 ? `${Math.round(count / 1000)}k` : String(count), at(column) + cell / 2, at(row) + cell / 2);
    }
  }
  if (!chosen) return;
  context.strokeStyle = accent;
  context.lineWidth = 2 * density;
  context.strokeRect(at(chosen[1]) - density, at(chosen[0]) - density, cell + density, cell + density);
}
