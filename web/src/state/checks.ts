// What a View of sanity checks says of a map: does it depend on the network's weights, and on the pixels it points to?

import { axisSize, type NamedArray, type View } from "../api/view";
import type { Plane } from "../paint/planes";
import { magnitudeQuantile } from "../paint/scale";

export interface Stage {
  readonly name: string;
  readonly map: Plane;
  /** Its own: with random weights gradients grow or shrink by orders of magnitude, and only the pattern is compared. */
  readonly limit: number;
  /** Spearman's rank correlation of the maps' magnitudes with the map itself, of the signed maps, and SSIM. */
  readonly spearman: number;
  readonly spearmanSigned: number;
  readonly ssim: number;
}

export interface CheckCurve {
  readonly name: string;
  readonly values: ArrayLike<number>;
  readonly area: number;
}

export interface Variant {
  readonly name: string;
  readonly map: Plane;
  readonly limit: number;
  readonly similarity: number;
}

export type Level = "good" | "doubt" | "neutral";

export interface Finding {
  readonly check: string;
  readonly level: Level;
  readonly text: string;
}

export interface Checks {
  readonly stages: readonly Stage[];
  /** Part of the image's tiles that were taken away or put back, and what was left of the objective. */
  readonly fraction: ArrayLike<number>;
  readonly deletion: readonly CheckCurve[];
  readonly insertion: readonly CheckCurve[];
  readonly measure: string;
  readonly variants: readonly Variant[];
  readonly edgeSimilarity: number | null;
  readonly findings: readonly Finding[];
  readonly cautions: readonly string[];
}

const MOST = 0.995;
const limitOf = ({ data, offset, rows, columns }: Plane): number =>
  magnitudeQuantile(Array.prototype.slice.call(data, offset, offset + rows * columns) as number[], MOST);

const texts = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : []);
const planeAt = (array: NamedArray, first: number, image: number): Plane => {
  const [images, rows, columns] = [axisSize(array, "image"), axisSize(array, "row"), axisSize(array, "column")];
  return { data: array.data, offset: (first * images + image) * rows * columns, rows, columns };
};
const at = (array: NamedArray | undefined, first: number, image: number): number =>
  array ? array.data[first * axisSize(array, "image") + image] : NaN;

function curves(view: View, name: "deletion" | "insertion", image: number): CheckCurve[] {
  const [values, areas] = [view.arrays.get(name), view.arrays.get(`${name}_area`)];
  if (!values) return [];
  const [images, steps] = [axisSize(values, "image"), axisSize(values, "step")];
  const named = texts(view.meta.curves);
  return Array.from({ length: axisSize(values, "curve") }, (_, curve) => ({
    name: named[curve] ?? String(curve),
    values: values.data.subarray((curve * images + image) * steps, (curve * images + image + 1) * steps),
    // The first fill's, as the curves are.
    area: at(areas, curve, image),
  }));
}

export function readChecks(view: View, image = 0): Checks {
  const randomized = view.arrays.get("randomized");
  const varied = view.arrays.get("varied");
  const names = texts(view.meta.stages);
  const variants = texts(view.meta.variants);
  const stages = Array.from({ length: randomized ? axisSize(randomized, "stage") : 0 }, (_, stage) => ({
    name: names[stage] ?? String(stage),
    map: planeAt(randomized as NamedArray, stage, image),
    limit: limitOf(planeAt(randomized as NamedArray, stage, image)),
    spearman: at(view.arrays.get("spearman"), stage, image),
    spearmanSigned: at(view.arrays.get("spearman_signed"), stage, image),
    ssim: at(view.arrays.get("ssim"), stage, image),
  }));
  const findings = Array.isArray(view.meta.findings) ? (view.meta.findings as Partial<Finding>[]) : [];
  return {
    stages,
    fraction: view.arrays.get("fraction")?.data ?? [],
    deletion: curves(view, "deletion", image),
    insertion: curves(view, "insertion", image),
    measure: String(view.meta.measure ?? ""),
    variants: Array.from({ length: varied ? axisSize(varied, "variant") : 0 }, (_, variant) => ({
      name: variants[variant] ?? String(variant),
      map: planeAt(varied as NamedArray, variant, image),
      limit: limitOf(planeAt(varied as NamedArray, variant, image)),
      similarity: at(view.arrays.get("sensitivity"), variant, image),
    })),
    edgeSimilarity: view.arrays.get("edge_similarity")?.data[image] ?? null,
    findings: findings.map(({ check = "", level = "neutral", text = "" }) => ({ check, level, text })),
    cautions: texts(view.meta.cautions),
  };
}

/** The worst of what was found, of one check or of all. */
export function verdict(checks: Pick<Checks, "findings">, check = ""): Level {
  const found = checks.findings.filter((each) => !check || each.check === check).map(({ level }) => level);
  return found.includes("doubt") ? "doubt" : found.includes("good") ? "good" : "neutral";
}
