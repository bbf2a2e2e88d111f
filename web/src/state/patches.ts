// What a "top_patches" View says of one unit: its ranked patches, the classes they come from, how its answers are spread.

import { arrayOf, axisSize, unitIndex, type View } from "../api/view";

export const WHICH = ["top", "bottom", "quantile"] as const;
/** The images that excite a unit most, least, or that lie evenly between. */
export type Which = (typeof WHICH)[number];

export const CUTS = ["crop", "context", "mask"] as const;
/** What of the image a tile shows: the receptive field, what is around it too, or the whole image dimmed outside it. */
export type Cut = (typeof CUTS)[number];

/** Pixels of the prepared image, not clipped: what lies outside the image is padding. */
export interface PatchBox {
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly columns: number;
}

export interface Patch {
  readonly rank: number;
  /** The study's own image id. */
  readonly image: number;
  readonly name: string;
  readonly value: number;
  /** Of the maximum on the unit's map. */
  readonly row: number;
  readonly column: number;
  readonly box: PatchBox;
  /** Fraction of images whose maximum is no larger; only where patches are spread over quantiles. */
  readonly quantile: number | null;
}

const prefixOf = (which: Which): string => (which === "top" ? "" : `${which}_`);

/** How many patches of each unit the View ranks. */
export const rankCount = (view: View, which: Which): number => axisSize(arrayOf(view, `${prefixOf(which)}image`), "rank");

/** How many patches each unit of the View has: fewer than ranks where fewer images count. */
export function filledRanks(view: View, which: Which): Int32Array {
  const image = arrayOf(view, `${prefixOf(which)}image`);
  const ranks = axisSize(image, "rank");
  return Int32Array.from({ length: axisSize(image, "unit") }, (_, unit) => {
    let filled = 0;
    while (filled < ranks && image.data[unit * ranks + filled] >= 0) filled++;
    return filled;
  });
}

/** A unit's patches, best first. */
export function unitPatches(view: View, which: Which, channel: number): Patch[] {
  const prefix = prefixOf(which);
  const read = (name: string) => arrayOf(view, prefix + name).data;
  const image = arrayOf(view, `${prefix}image`);
  const ranks = axisSize(image, "rank");
  const index = unitIndex(view, channel, axisSize(image, "unit"));
  if (index < 0) return [];
  const [value, row, column, box] = [read("value"), read("row"), read("column"), read("box")];
  const fraction = which === "quantile" ? view.arrays.get("quantile")?.data : undefined;
  const names = view.meta.image_names as Record<string, string> | undefined;
  const found: Patch[] = [];
  for (let rank = 0; rank < ranks; rank++) {
    const at = index * ranks + rank;
    const id = image.data[at];
    if (id < 0) continue;
    found.push({
      rank,
      image: id,
      name: names?.[String(id)] ?? `#${id}`,
      value: value[at],
      row: row[at],
      column: column[at],
      box: { row: box[4 * at], column: box[4 * at + 1], rows: box[4 * at + 2], columns: box[4 * at + 3] },
      quantile: fraction ? fraction[at] : null,
    });
  }
  return found;
}

export interface ClassCount {
  readonly name: string;
  readonly count: number;
}

/** The classes of a unit's top images, most frequent first. */
export function classCounts(view: View, channel: number): ClassCount[] {
  const index = view.arrays.get("class_index");
  const count = view.arrays.get("class_count");
  if (!index || !count) return [];
  const places = axisSize(index, "class_rank");
  const unit = unitIndex(view, channel, axisSize(index, "unit"));
  if (unit < 0) return [];
  const names = view.meta.class_names as Record<string, string> | undefined;
  const found: ClassCount[] = [];
  for (let place = unit * places; place < (unit + 1) * places; place++) {
    if (index.data[place] < 0 || count.data[place] <= 0) continue;
    found.push({ name: names?.[String(index.data[place])] ?? String(index.data[place]), count: count.data[place] });
  }
  return found;
}

/** The most frequent class among a unit's top images; where several are equally frequent, all of them. */
export interface TopClass {
  readonly names: readonly string[];
  readonly count: number;
  /** Of so many images whose class is known. */
  readonly of: number;
}

/** The top class of each unit of a layer. */
export function topClasses(view: View): TopClass[] {
  const index = view.arrays.get("class_index");
  const count = view.arrays.get("class_count")?.data;
  if (!index || !count) return [];
  const places = axisSize(index, "class_rank");
  const names = (view.meta.class_names ?? {}) as Record<string, string>;
  return Array.from({ length: axisSize(index, "unit") }, (_, unit) => {
    const start = unit * places;
    const tied: string[] = [];
    let of = 0;
    for (let place = start; place < start + places && index.data[place] >= 0; place++) {
      of += count[place];
      if (count[place] === count[start]) tied.push(names[String(index.data[place])] ?? String(index.data[place]));
    }
    return { names: tied, count: tied.length ? count[start] : 0, of };
  });
}

/** A part of the axis of a distribution; both ends are values of the unit. */
export interface Bar {
  readonly low: number;
  readonly high: number;
  readonly count: number;
}

/** A unit's maxima, one per image, on an axis that is even in the logarithm on either side of zero. */
export interface Distribution {
  readonly bars: readonly Bar[];
  readonly total: number;
  /** Half of the images stay below it, as precisely as the bins are fine. */
  readonly median: number;
}

// Smaller than the largest by more than this, values lie in one bar around zero: a logarithm never reaches it.
const DECADES_SHOWN = 1000;
const MOST_BARS = 56;

export function distribution(view: View, channel: number): Distribution | null {
  const histogram = view.arrays.get("histogram");
  const edges = view.meta.histogram_edges as number[] | undefined;
  if (!histogram || !edges) return null;
  const bins = axisSize(histogram, "bin");
  const unit = unitIndex(view, channel, axisSize(histogram, "unit"));
  if (unit < 0 || edges.length !== bins + 1) return null;
  const found: Bar[] = [];
  for (let bin = 0; bin < bins; bin++) {
    found.push({ low: edges[bin], high: edges[bin + 1], count: histogram.data[unit * bins + bin] });
  }
  return spread(found);
}

/** Bins of the whole range of floats -> the bars worth drawing. */
export function spread(bins: readonly Bar[]): Distribution | null {
  const filled = bins.filter((bin) => bin.count > 0);
  if (!filled.length) return null;
  const total = filled.reduce((sum, bin) => sum + bin.count, 0);
  const reach = (bin: Bar) => Math.max(Math.abs(bin.low), Math.abs(bin.high));
  const floor = Math.max(...filled.map(reach)) / DECADES_SHOWN;
  const small = (bin: Bar) => reach(bin) <= floor;
  const sides = [filled.filter((bin) => bin.low < 0 && !small(bin)), filled.filter((bin) => bin.low >= 0 && !small(bin))];
  const between = (inside: readonly Bar[]): Bar[] => {
    if (!inside.length) return [];
    const [low, high] = [inside[0].low, inside[inside.length - 1].high];
    return bins.filter((bin) => bin.low >= low && bin.high <= high);
  };
  let [negative, positive] = sides.map(between);
  const middle = filled.filter(small);
  // With answers of both signs, or zeros, the logarithm is cut where it would go on for ever.
  const zero: Bar[] = [];
  if (middle.length || (negative.length && positive.length)) {
    if (negative.length) negative = bins.filter((bin) => bin.low >= negative[0].low && bin.high <= 0 && !small(bin));
    if (positive.length) positive = bins.filter((bin) => bin.low >= 0 && bin.high <= positive[positive.length - 1].high && !small(bin));
    const low = negative.length ? negative[negative.length - 1].high : Math.min(0, ...middle.map((bin) => bin.low));
    const high = positive.length ? positive[0].low : Math.max(0, ...middle.map((bin) => bin.high));
    zero.push({ low, high, count: middle.reduce((sum, bin) => sum + bin.count, 0) });
  }
  const merge = Math.ceil((negative.length + positive.length) / MOST_BARS);
  const bars = [...merged(negative.toReversed(), merge).toReversed(), ...zero, ...merged(positive, merge)];
  return { bars, total, median: medianOf(filled, total) };
}

/** Neighbors together, so many at a time. */
function merged(bars: readonly Bar[], size: number): Bar[] {
  const found: Bar[] = [];
  for (let start = 0; start < bars.length; start += size) {
    const part = bars.slice(start, start + size);
    const count = part.reduce((sum, bar) => sum + bar.count, 0);
    found.push({ low: Math.min(...part.map((bar) => bar.low)), high: Math.max(...part.map((bar) => bar.high)), count });
  }
  return found;
}

function medianOf(filled: readonly Bar[], total: number): number {
  let before = 0;
  for (const { low, high, count } of filled) {
    if (before + count >= total / 2) return low + ((total / 2 - before) / count) * (high - low);
    before += count;
  }
  return NaN;
}

/** Where a value lies along the bars, in bars: 0 to `bars.length`; null outside. */
export function barPlace(bars: readonly Bar[], value: number): number | null {
  // A value on an edge is in the bar above it, except the last edge.
  const at = bars.findLastIndex((bar) => bar.low <= value);
  if (at < 0 || value > bars[at].high) return null;
  const { low, high } = bars[at];
  return at + (high > low ? (value - low) / (high - low) : 0.5);
}
