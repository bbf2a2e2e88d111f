// What a network is blind to, and which parts it treats alike: Views "invariance" and "correspondence".

import { axisSize, type View } from "../api/view";
import type { Picture } from "../paint/pictures";
import { pictureAt } from "./synthesis";

const texts = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : []);

export interface Change {
  readonly name: string;
  readonly unit: string;
  readonly amount: ArrayLike<number>;
  /** Per layer: how far the code moved, as a part of its own size. */
  readonly distance: readonly { readonly layer: string; readonly values: ArrayLike<number> }[];
  readonly probability: ArrayLike<number>;
  readonly mostProbable: ArrayLike<number>;
  readonly examples: readonly Picture[];
}

/** How one image's codes and its class's probability change as it is moved, scaled and turned. */
export function readInvariance(view: View, image = 0): Change[] {
  const amount = view.arrays.get("amount");
  const distance = view.arrays.get("relative") ?? view.arrays.get("distance");
  const probability = view.arrays.get("probability");
  const example = view.arrays.get("example");
  if (!amount || !distance || !probability) return [];
  const [changes, steps] = [axisSize(amount, "transform"), axisSize(amount, "step")];
  const layers = axisSize(distance, "layer");
  const names = { changes: texts(view.meta.transforms), layers: texts(view.meta.layers), units: texts(view.meta.amount_units) };
  const examples = example ? axisSize(example, "example") : 0;
  const most = view.arrays.get("most_probable");
  const row = (data: { subarray(start: number, end: number): ArrayLike<number> }, index: number) => data.subarray(index * steps, (index + 1) * steps);
  return Array.from({ length: changes }, (_, change) => ({
    name: names.changes[change] ?? String(change),
    unit: names.units[change] ?? "",
    amount: row(amount.data, change),
    distance: Array.from({ length: layers }, (_, layer) => ({
      layer: names.layers[layer] ?? String(layer),
      values: row(distance.data, (image * layers + layer) * changes + change),
    })),
    probability: row(probability.data, image * changes + change),
    mostProbable: most ? row(most.data, image * changes + change) : [],
    examples: example ? Array.from({ length: examples }, (_, each) => pictureAt(example, (image * changes + change) * examples + each)) : [],
  }));
}

export interface Correspondence {
  readonly part: string;
  readonly layers: readonly {
    readonly layer: string;
    readonly distance: number;
    readonly random: readonly number[];
    /** Of the random draws, how many changed the codes as consistently. */
    readonly smaller: number;
  }[];
  readonly pictures: readonly Picture[];
}

/** Whether masking the same part in several images changes their codes in the same way. */
export function readCorrespondence(view: View): Correspondence[] {
  const [distance, random, smaller, picture] = ["distance", "random", "smaller", "picture"].map((name) => view.arrays.get(name));
  if (!distance) return [];
  const [parts, layers] = [axisSize(distance, "part"), axisSize(distance, "layer")];
  const draws = random ? axisSize(random, "draw") : 0;
  const images = picture ? axisSize(picture, "image") : 0;
  const [named, layered] = [texts(view.meta.parts), texts(view.meta.layers)];
  return Array.from({ length: parts }, (_, part) => ({
    part: named[part] ?? String(part),
    layers: Array.from({ length: layers }, (_, layer) => {
      const at = part * layers + layer;
      return {
        layer: layered[layer] ?? String(layer),
        distance: distance.data[at],
        random: random ? Array.from(random.data.subarray(at * draws, (at + 1) * draws)) : [],
        smaller: smaller?.data[at] ?? 0,
      };
    }),
    pictures: picture ? Array.from({ length: images }, (_, image) => pictureAt(picture, part * images + image)) : [],
  }));
}

/** A box on the prepared image. */
export interface PartBox {
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly columns: number;
}

/** A part by its name, with its box on each image. */
export interface Part {
  readonly name: string;
  readonly boxes: readonly PartBox[];
}

const clean = (name: string): string => name.replace(/[:;/,~]/g, " ").trim() || "part";

/** "left eye: 12,30,40,40; 14,28,40,40 / nose: 50,60,30,30; …": as the library reads it, so that a link can hold it. */
export const writeParts = (parts: readonly Part[]): string =>
  parts
    .map(({ name, boxes }) => `${clean(name)}: ${boxes.map(({ row, column, rows, columns }) => [row, column, rows, columns].map(Math.round).join(",")).join("; ")}`)
    .join(" / ");

/** The parts of a text, each with a box for each of `images` images; what can't be read is left out. */
export function readParts(text: string, images: number): Part[] {
  return text.split("/").flatMap((each) => {
    const colon = each.indexOf(":");
    if (colon < 0) return [];
    const boxes = each
      .slice(colon + 1)
      .split(";")
      .map((box) => box.split(",").map(Number))
      .filter((box) => box.length === 4 && box.every(Number.isFinite) && box[2] > 0 && box[3] > 0)
      .map(([row, column, rows, columns]) => ({ row, column, rows, columns }));
    if (!boxes.length) return [];
    return [{ name: clean(each.slice(0, colon)), boxes: Array.from({ length: images }, (_, image) => boxes[image] ?? boxes[boxes.length - 1]) }];
  });
}

/** A box moved by whole pixels, inside the image. */
export function movedBox(box: PartBox, byRows: number, byColumns: number, [rows, columns]: readonly [number, number]): PartBox {
  const within = (value: number, most: number) => Math.min(Math.max(0, most), Math.max(0, value));
  return { ...box, row: within(box.row + byRows, rows - box.rows), column: within(box.column + byColumns, columns - box.columns) };
}
