// A plot of numbers over steps: where everything lies, and how it is drawn.

import { formatNumber } from "./number";

export interface Line {
  readonly name: string;
  readonly steps: ArrayLike<number>;
  readonly values: ArrayLike<number>;
  readonly color: string;
  readonly dash: readonly number[];
  /** Of 1: drawn faint, behind. */
  readonly opacity: number;
  readonly width: number;
  /** Points are marked: there are few of them. */
  readonly dots: boolean;
}

export interface Mark {
  readonly step: number;
  readonly warning: boolean;
}

export interface PlotContent {
  readonly lines: readonly Line[];
  readonly marks: readonly Mark[];
  readonly logarithmic: boolean;
  /** The smallest span of steps and values shown. */
  readonly steps: readonly [first: number, last: number];
  readonly bounds: readonly [low: number | null, high: number | null];
  readonly cursor: number | null;
  /** The step that the panels show; null: the newest. */
  readonly shown: number | null;
  /** The horizontal axis isn't one of whole steps. */
  readonly fractions?: boolean;
}

export interface Frame {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  readonly first: number;
  readonly last: number;
  readonly low: number;
  readonly high: number;
  readonly logarithmic: boolean;
}

export interface PlotStyle {
  readonly ink: string;
  readonly faint: string;
  readonly line: string;
  readonly accent: string;
  readonly font: string;
  readonly density: number;
}

const LEFT = 44;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;

/** The extent of finite values over all lines; null where there are none. Logarithmic: of those above zero. */
export function extent(lines: readonly Pick<Line, "values">[], logarithmic: boolean): [low: number, high: number] | null {
  let [low, high] = [Infinity, -Infinity];
  for (const { values } of lines) {
    for (let index = 0; index < values.length; index++) {
      const value = values[index];
      if (!(Math.abs(value) < Infinity) || (logarithmic && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/** Where a plot's inside lies in a canvas of so many CSS pixels, and what its edges mean. */
export function plotFrame(content: Pick<PlotContent, "lines" | "logarithmic" | "steps" | "bounds">, width: number, height: number): Frame {
  const { lines, logarithmic, steps, bounds } = content;
  let [low, high] = extent(lines, logarithmic) ?? (logarithmic ? [0.1, 1] : [0, 1]);
  low = bounds[0] ?? low;
  high = bounds[1] ?? high;
  if (logarithmic) {
    low = 10 ** (Math.floor(4 * Math.log10(Math.max(low, Number.MIN_VALUE))) / 4);
    high = 10 ** (Math.ceil(4 * Math.log10(Math.max(high, Number.MIN_VALUE))) / 4);
    if (low === high) [low, high] = [low / 2, high * 2];
  } else if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
    const half = Math.abs(high) / 2 || 0.5;
    [low, high] = [low - half, high + half];
  } else {
    const room = 0.04 * (high - low);
    if (bounds[0] === null) low = low >= 0 && low < 0.3 * high ? 0 : low - room;
    if (bounds[1] === null) high += room;
  }
  const [first, last] = steps[1] > steps[0] ? steps : [steps[0], steps[0] + 1];
  return { left: LEFT, top: TOP, width: Math.max(1, width - LEFT - RIGHT), height: Math.max(1, height - TOP - BOTTOM), first, last, low, high, logarithmic };
}

export const acrossOf = (frame: Frame, step: number): number => frame.left + (frame.width * (step - frame.first)) / (frame.last - frame.first);

export function downOf(frame: Frame, value: number): number {
  const { low, high, logarithmic } = frame;
  const part = logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return frame.top + frame.height * (1 - part);
}

export const stepAt = (frame: Frame, across: number): number =>
  Math.min(frame.last, Math.max(frame.first, frame.first + ((across - frame.left) / frame.width) * (frame.last - frame.first)));

/** Round numbers in an interval, at most about `count` of them: 1, 2 or 5 times a power of ten apart. */
export function ticks(low: number, high: number, count: number): number[] {
  const span = high - low;
  if (!(span > 0) || count < 1) return [];
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const apart = power * ([1, 2, 5, 10].find((each) => each * power >= raw * (1 - 1e-9)) ?? 10);
  const found: number[] = [];
  for (let index = Math.ceil(low / apart - 1e-9); index * apart <= high + 1e-9 * span; index++) found.push(Number((index * apart).toPrecision(12)));
  return found;
}

/** Powers of ten in an interval; with few of them, also 2 and 5 times. */
export function powers(low: number, high: number): number[] {
  const found: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) {
      const value = Number((factor * 10 ** power).toPrecision(12));
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
    }
  }
  const whole = found.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-9);
  return whole.length >= 3 ? whole : found;
}

export function paintPlot(canvas: HTMLCanvasElement, content: PlotContent, width: number, height: number, style: PlotStyle): Frame {
  const { density } = style;
  canvas.width = Math.max(1, Math.round(width * density));
  canvas.height = Math.max(1, Math.round(height * density));
  const frame = plotFrame(content, width, height);
  const context = canvas.getContext("2d");
  if (!context) return frame;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  paintAxes(context, frame, style, content.fractions ?? false);
  paintMarks(context, frame, content.marks, style);
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top - 2, frame.width + 2, frame.height + 4);
  context.clip();
  for (const line of content.lines) paintLine(context, frame, line);
  context.restore();
  const upright = (step: number, color: string, thick: number) => {
    context.strokeStyle = color;
    context.lineWidth = thick;
    const across = Math.round(acrossOf(frame, step)) + 0.5;
    context.beginPath();
    context.moveTo(across, frame.top);
    context.lineTo(across, frame.top + frame.height);
    context.stroke();
  };
  if (content.shown !== null && content.shown >= frame.first && content.shown <= frame.last) upright(content.shown, style.accent, 2);
  if (content.cursor !== null) upright(content.cursor, style.faint, 1);
  return frame;
}

function paintAxes(context: CanvasRenderingContext2D, frame: Frame, style: PlotStyle, fractions: boolean): void {
  context.font = `10px ${style.font}`;
  context.fillStyle = style.faint;
  context.strokeStyle = style.line;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const values = frame.logarithmic ? powers(frame.low, frame.high) : ticks(frame.low, frame.high, Math.max(2, Math.floor(frame.height / 32)));
  for (const value of values) {
    const down = Math.round(downOf(frame, value)) + 0.5;
    context.beginPath();
    context.moveTo(frame.left, down);
    context.lineTo(frame.left + frame.width, down);
    context.stroke();
    context.fillText(formatTick(value), frame.left - 6, down);
  }
  context.textBaseline = "top";
  const steps = ticks(frame.first, frame.last, Math.max(2, Math.floor(frame.width / 80))).filter((step) => fractions || Number.isInteger(step));
  for (const step of steps) {
    const across = acrossOf(frame, step);
    const text = formatTick(step);
    const half = context.measureText(text).width / 2;
    context.textAlign = across + half > frame.left + frame.width + RIGHT - 2 ? "right" : "center";
    context.fillText(text, context.textAlign === "right" ? frame.left + frame.width + RIGHT - 2 : across, frame.top + frame.height + 6);
  }
}

/** Of round numbers: no more digits than they have. */
export function formatTick(value: number): string {
  const magnitude = Math.abs(value);
  if (magnitude >= 1e9) return formatNumber(value, 1);
  if (magnitude >= 1e6) return `${Number((value / 1e6).toPrecision(6))} M`;
  if (magnitude >= 1e4) return `${Number((value / 1e3).toPrecision(6))} k`;
  if (magnitude !== 0 && magnitude < 1e-3) return formatNumber(value, 1);
  return String(Number(value.toPrecision(6))).replace("-", "\u2212");
}

function paintMarks(context: CanvasRenderingContext2D, frame: Frame, marks: readonly Mark[], style: PlotStyle): void {
  for (const mark of marks) {
    if (mark.step < frame.first || mark.step > frame.last) continue;
    const across = Math.round(acrossOf(frame, mark.step)) + 0.5;
    const bottom = frame.top + frame.height;
    context.strokeStyle = mark.warning ? style.ink : style.faint;
    context.fillStyle = context.strokeStyle;
    context.lineWidth = 1;
    context.setLineDash([2, 3]);
    context.beginPath();
    context.moveTo(across, frame.top);
    context.lineTo(across, bottom);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    if (mark.warning) context.rect(across - 3, bottom - 3, 6, 6);
    else {
      context.moveTo(across - 4, bottom + 4);
      context.lineTo(across + 4, bottom + 4);
      context.lineTo(across, bottom - 3);
    }
    context.fill();
  }
}

function paintLine(context: CanvasRenderingContext2D, frame: Frame, line: Line): void {
  context.globalAlpha = line.opacity;
  context.strokeStyle = line.color;
  context.fillStyle = line.color;
  context.lineWidth = line.width;
  context.lineJoin = "round";
  context.setLineDash([...line.dash]);
  context.beginPath();
  let drawing = false;
  const visible = (value: number) => Math.abs(value) < Infinity && (!frame.logarithmic || value > 0);
  for (let index = 0; index < line.steps.length; index++) {
    const value = line.values[index];
    // What isn't a number leaves a gap.
    if (!visible(value)) {
      drawing = false;
      continue;
    }
    const [across, down] = [acrossOf(frame, line.steps[index]), downOf(frame, value)];
    if (drawing) context.lineTo(across, down);
    else context.moveTo(across, down);
    drawing = true;
  }
  context.stroke();
  context.setLineDash([]);
  if (line.dots) {
    for (let index = 0; index < line.steps.length; index++) {
      if (!visible(line.values[index])) continue;
      context.beginPath();
      context.arc(acrossOf(frame, line.steps[index]), downOf(frame, line.values[index]), 1.75, 0, 2 * Math.PI);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}
