// A unit's patches and what in them drove it: projections as in the figures of Zeiler and Fergus.

import { arrayOf, axisSize, type View } from "../api/view";
import type { Layer } from "../api/schema";
import { cropped, type Picture } from "../paint/pictures";
import type { ViewRequest } from "../sources/source";
import type { Projector } from "./url";

export const PROJECTED = 9;

/** A unit's top patches and their projections; of several units of a layer in one request. */
export function projectionsRequest(layer: Pick<Layer, "address">, units: readonly number[], projector: Projector, revision: number, ranks = PROJECTED): ViewRequest {
  const one = units.length === 1;
  const parameters: Record<string, string | number> = { rule: projector, ranks };
  if (!one) parameters.units = units.join(",");
  return { method: "projections", target: one ? `${layer.address}:${units[0]}` : layer.address, parameters, revision };
}

export interface Projection {
  readonly rank: number;
  readonly value: number;
  /** Number of the image in the study. */
  readonly image: number;
  readonly name: string;
  readonly patch: Picture | null;
  readonly projection: Picture;
}

/** The projections of one place of the View's unit axis, best patch first. */
export function readProjections(view: View, unit: number): Projection[] {
  const projection = arrayOf(view, "projection");
  const patch = view.arrays.get("patch");
  const [ranks, rows, columns] = [axisSize(projection, "rank"), axisSize(projection, "row"), axisSize(projection, "column")];
  const colors = projection.shape[projection.shape.length - 1];
  const [value, image, window] = ["value", "image", "window"].map((name) => view.arrays.get(name)?.data);
  const names = (view.meta.image_names ?? {}) as Record<string, string> | string[];
  const found: Projection[] = [];
  for (let rank = 0; rank < ranks; rank++) {
    const at = unit * ranks + rank;
    if (image && image[at] < 0) continue;
    // Smaller windows are padded at their end to the largest one.
    const [high, wide] = window ? [window[4 * at + 2], window[4 * at + 3]] : [rows, columns];
    if (!(high > 0 && wide > 0)) continue;
    const whole = (data: ArrayLike<number>, depth: number): Picture => ({ data, offset: at * rows * columns * depth, rows, columns, colors: depth });
    const cut = (picture: Picture) => (high < rows || wide < columns ? cropped(picture, 0, 0, Math.min(high, rows), Math.min(wide, columns)) : picture);
    found.push({
      rank,
      value: value?.[at] ?? NaN,
      image: image?.[at] ?? -1,
      name: String(Array.isArray(names) ? (names[at] ?? "") : (names[String(image?.[at])] ?? "")),
      patch: patch ? cut(whole(patch.data, patch.shape[patch.shape.length - 1])) : null,
      projection: cut(whole(projection.data, colors)),
    });
  }
  return found;
}
