// How layers, fields and targets are put into words; the words themselves are in the catalogue.

import type { Layer, Session } from "../api/schema";
import { formatCount, formatNumber } from "../paint/number";
import type { TopClass } from "../state/patches";
import { parseObjective } from "../state/objective";
import { isKnown, seesAll } from "../state/receptive";
import { t, tOr } from "../strings";

/** "7×7", "up to 31×31" where units or positions differ or it isn't known better, "whole image" */
export function fieldText(layer: Layer, imageSize: readonly [number, number]): string {
  const field = layer.receptive_field;
  if (!field.rows || !field.columns) return t("field.unknown");
  if (field.uniform && field.exact && seesAll(field, imageSize)) return t("field.whole");
  const [rows, columns] = [field.rows.size, field.columns.size];
  return t(isKnown(layer) ? "field.exact" : "field.upTo", { rows, columns });
}

const KINDS: Readonly<Record<string, string>> = {
  Conv2d: "conv",
  ConvTranspose2d: "conv transposed",
  Conv1d: "conv",
  Conv3d: "conv",
  BatchNorm2d: "batch-norm",
  MaxPool2d: "max pool",
  max_pool2d: "max pool",
  AvgPool2d: "mean pool",
  avg_pool2d: "mean pool",
  AdaptiveAvgPool2d: "mean pool",
  adaptive_avg_pool2d: "mean pool",
  ReLU: "relu",
  ReLU6: "relu6",
  Linear: "linear",
  Dropout: "dropout",
  Softmax: "softmax",
  ZeroPad2d: "padding",
};

const pairText = (value: unknown): string => {
  const [first, second] = Array.isArray(value) ? value : [value, value];
  return first === second ? String(first) : `${first}×${second}`;
};

const isPair = (value: unknown): boolean => Array.isArray(value) || typeof value === "number";

/** "conv 3×3 /2": kind, kernel and stride, as people write it. */
export function kindText(layer: Layer): string {
  const { kernel_size: kernel, stride, groups } = layer.details;
  const words = [KINDS[layer.kind] ?? layer.kind];
  const rows = layer.shape?.[0];
  if (layer.has_kernel && typeof groups === "number" && groups > 1) words.unshift(groups === rows ? "depthwise" : `${groups} groups`);
  const size = layer.kernel_size ?? (isPair(kernel) ? kernel : null);
  if (size && layer.kind !== "Linear") words.push(Array.isArray(size) ? `${size[0]}×${size[1]}` : `${size as number}×${size as number}`);
  if (isPair(stride) && pairText(stride) !== "1") words.push(`/${pairText(stride)}`);
  return words.join(" ");
}

/** "96 · 111²", "1000" */
export function shapeText(layer: Layer): string {
  if (layer.opaque) return "–";
  const [units, rows, columns] = layer.shape;
  if (rows === 1 && columns === 1) return String(units);
  return `${units} · ${rows === columns ? `${rows}²` : `${rows}×${columns}`}`;
}

export function layerLabel(layer: Layer, imageSize: readonly [number, number]): string {
  const [units, rows, columns] = layer.shape;
  return t("spine.row", {
    address: layer.address,
    kind: kindText(layer),
    units,
    rows,
    columns,
    parameters: formatCount(layer.parameters),
    field: fieldText(layer, imageSize),
  });
}

export const className = (session: Session | null, index: number): string =>
  session?.network.class_names[index] ?? t("target.class.number", { number: index });

export function targetText(session: Session | null, objective: string): string {
  const parsed = parseObjective(objective);
  if (parsed.kind === "unit") return t("target.short.unit", { address: parsed.address });
  if (typeof parsed.label === "number") {
    const name = className(session, parsed.label);
    return t(parsed.kind === "loss" ? "target.short.loss.class" : "target.short.score.class", { name });
  }
  if (parsed.kind === "score") return t("target.short.score.predicted");
  return t(`target.short.loss.${parsed.label}`);
}

/** Why there is no kernel to show: what a normalization has instead, or that there is nothing to learn at all. */
export function noKernelText(layer: Layer): string {
  const kind = kindText(layer);
  const article = /^[aeiou]/i.test(kind) ? "An" : "A";
  if (/norm/i.test(layer.kind) && layer.parameters === 2 * layer.shape[0]) return t("kernel.normalization", { article, kind });
  return t(layer.parameters > 0 ? "kernel.otherWeights" : "kernel.none", { article, kind, count: formatCount(layer.parameters) });
}

/** What a statistic is; of a study, it is taken over all images. */
export const statisticHelp = (name: string, mined: boolean): string =>
  tOr(mined ? `statistic.mined.${name}` : "", tOr(`statistic.help.${name}`, name));

/** 0.1234 -> "12.3 %"; what is nearly nothing or nearly all isn't rounded to it. */
export function percentText(fraction: number): string {
  const percent = 100 * fraction;
  if (percent > 99 && percent < 100) return `${Math.min(99.99, Math.floor(percent * 100) / 100)} %`;
  return `${formatNumber(percent)} %`;
}

/** "zebra ×4"; "" where no class comes twice, which says nothing about the unit. */
export function topClassText(top: TopClass | undefined): string {
  if (!top || top.count < 2) return "";
  return t("patches.topClass", { name: top.names[0], count: top.count });
}
