// Planes of numbers -> pixels. Nearest neighbor when enlarged, area average of the values when reduced.

import { NAN, NEGATIVE_INFINITY, POSITIVE_INFINITY, pack, type Palette } from "./colormap";
import { colorIndex, type Scale } from "./scale";

/** `rows` × `columns` values from `offset` on; `count` of them exist (a last row may be short). */
export interface Plane {
  readonly data: ArrayLike<number>;
  readonly offset: number;
  readonly rows: number;
  readonly columns: number;
  readonly count?: number;
}

/** Device pixels, 0xAABBGGRR, row by row. */
export interface Pixels {
  readonly data: Uint32Array;
  readonly width: number;
}

export interface Rectangle {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

type CellColor = (cell: number) => number;
type AreaColor = (rowStart: number, rowEnd: number, columnStart: number, columnEnd: number) => number;

/** Paint one plane into a rectangle of device pixels. */
export function paintPlane(target: Pixels, place: Rectangle, plane: Plane, scale: Scale, palette: Palette): void {
  const { data, offset } = plane;
  const { colors } = palette;
  const whole = plane.count === undefined || plane.count === plane.rows * plane.columns;
  const smaller = place.width <= plane.columns && place.height <= plane.rows;
  if (whole && smaller && (place.width < plane.columns || place.height < plane.rows)) {
    reduceWhole(target, place, plane, (value) => colors[colorIndex(value, scale)]);
    return;
  }
  fill(
    target,
    place,
    plane,
    (cell) => colors[colorIndex(data[offset + cell], scale)],
    (...box) => colors[colorIndex(areaMean(plane, 0, ...box), scale)],
  );
}

/** The same means as `areaMean` gives, rows first and then columns: each value is read once. */
function reduceWhole(target: Pixels, place: Rectangle, plane: Plane, color: (value: number) => number): void {
  const { data, offset, rows, columns } = plane;
  const sums = new Float64Array(columns);
  const [high, wide] = [rows / place.height, columns / place.width];
  for (let line = 0; line < place.height; line++) {
    sums.fill(0);
    const [start, end] = [line * high, (line + 1) * high];
    for (let row = Math.floor(start); row < end - 1e-9 && row < rows; row++) {
      const part = Math.min(row + 1, end) - Math.max(row, start);
      const first = offset + row * columns;
      for (let column = 0; column < columns; column++) sums[column] += part * data[first + column];
    }
    const out = (place.top + line) * target.width + place.left;
    for (let dot = 0; dot < place.width; dot++) {
      const [left, right] = [dot * wide, (dot + 1) * wide];
      let sum = 0;
      for (let column = Math.floor(left); column < right - 1e-9 && column < columns; column++) {
        sum += (Math.min(column + 1, right) - Math.max(column, left)) * sums[column];
      }
      target.data[out + dot] = color(sum / (high * wide));
    }
  }
}

/**
 * Paint three planes (`stride` values apart) as red, green and blue: mid-gray is 0, black -limit, white +limit in each.
 * A cell that holds a NaN or an infinity anywhere gets that mark instead of a color.
 */
export function paintColor(
  target: Pixels,
  place: Rectangle,
  plane: Plane,
  stride: number,
  limit: number,
  palette: Palette,
): void {
  const { data, offset } = plane;
  fill(
    target,
    place,
    plane,
    (cell) => mix(data[offset + cell], data[offset + stride + cell], data[offset + 2 * stride + cell], limit, palette),
    (...box) =>
      mix(areaMean(plane, 0, ...box), areaMean(plane, stride, ...box), areaMean(plane, 2 * stride, ...box), limit, palette),
  );
}

function mix(red: number, green: number, blue: number, limit: number, palette: Palette): number {
  const sum = red + green + blue;
  if (!Number.isFinite(sum)) {
    if (Number.isNaN(red) || Number.isNaN(green) || Number.isNaN(blue)) return palette.colors[NAN];
    const positive = red === Infinity || green === Infinity || blue === Infinity;
    return palette.colors[positive ? POSITIVE_INFINITY : NEGATIVE_INFINITY];
  }
  return pack(colorLevel(red, limit), colorLevel(green, limit), colorLevel(blue, limit));
}

/** -limit -> 0, 0 -> 128, +limit -> 255; +x and -x lie equally far from 127.5 + 0.5. */
export function colorLevel(value: number, limit: number): number {
  const part = limit > 0 ? Math.min(1, Math.max(-1, value / limit)) : 0;
  return part < 0 ? 128 - Math.round(-part * 128) : 128 + Math.round(part * 127);
}

function fill(target: Pixels, place: Rectangle, plane: Plane, cellColor: CellColor, areaColor: AreaColor): void {
  if (place.width < plane.columns || place.height < plane.rows) reduce(target, place, plane, areaColor);
  else enlarge(target, place, plane, cellColor);
}

function enlarge({ data, width }: Pixels, place: Rectangle, plane: Plane, cellColor: CellColor): void {
  const { rows, columns, count = rows * columns } = plane;
  for (let row = 0; row < rows; row++) {
    const top = place.top + Math.floor((row * place.height) / rows);
    const bottom = place.top + Math.floor(((row + 1) * place.height) / rows);
    const first = top * width + place.left;
    for (let column = 0; column < columns; column++) {
      const cell = row * columns + column;
      if (cell >= count) break;
      const left = Math.floor((column * place.width) / columns);
      const right = Math.floor(((column + 1) * place.width) / columns);
      data.fill(cellColor(cell), first + left, first + right);
    }
    const painted = Math.min(columns, count - row * columns);
    if (painted <= 0) break;
    const end = first + Math.floor((painted * place.width) / columns);
    for (let line = top + 1; line < bottom; line++) data.copyWithin(line * width + place.left, first, end);
  }
}

function reduce({ data, width }: Pixels, place: Rectangle, plane: Plane, areaColor: AreaColor): void {
  const { rows, columns, count = rows * columns } = plane;
  for (let line = 0; line < place.height; line++) {
    const rowStart = (line * rows) / place.height;
    const rowEnd = ((line + 1) * rows) / place.height;
    const first = (place.top + line) * width + place.left;
    for (let dot = 0; dot < place.width; dot++) {
      const columnStart = (dot * columns) / place.width;
      if (Math.floor(rowStart) * columns + Math.floor(columnStart) >= count) break;
      data[first + dot] = areaColor(rowStart, rowEnd, columnStart, ((dot + 1) * columns) / place.width);
    }
  }
}

/** The mean of a box with fractional borders. NaN and infinities survive it, so that none is ever averaged away. */
export function areaMean(
  { data, offset, rows, columns, count = rows * columns }: Plane,
  shift: number,
  rowStart: number,
  rowEnd: number,
  columnStart: number,
  columnEnd: number,
): number {
  let sum = 0;
  let weight = 0;
  const lastRow = Math.min(rows, Math.ceil(rowEnd - 1e-9));
  const lastColumn = Math.min(columns, Math.ceil(columnEnd - 1e-9));
  for (let row = Math.floor(rowStart); row < lastRow; row++) {
    const high = Math.min(row + 1, rowEnd) - Math.max(row, rowStart);
    for (let column = Math.floor(columnStart); column < lastColumn; column++) {
      if (row * columns + column >= count) break;
      const part = high * (Math.min(column + 1, columnEnd) - Math.max(column, columnStart));
      sum += part * data[offset + shift + row * columns + column];
      weight += part;
    }
  }
  return weight ? sum / weight : 0;
}

/**
 * The largest rectangle of a plane's aspect inside a square of `side` device pixels, centered; whole multiples of the
 * plane's size when that wastes little, so that every cell is equally large.
 */
export function fit(rows: number, columns: number, side: number): Rectangle {
  const larger = Math.max(rows, columns);
  const multiple = Math.floor(side / larger);
  const exact = multiple * larger;
  const used = multiple >= 1 && exact >= 0.86 * side ? exact : side;
  const height = Math.max(1, Math.round((used * rows) / larger));
  const width = Math.max(1, Math.round((used * columns) / larger));
  return { left: Math.floor((side - width) / 2), top: Math.floor((side - height) / 2), width, height };
}
