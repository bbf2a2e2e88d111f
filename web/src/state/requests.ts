// Which Views a page state needs. Pure: the same state always asks for the same.

import type { Layer } from "../api/schema";
import type { ViewRequest } from "../sources/source";
import { unitAddress } from "./address";
import type { PageState, Sheet, SpatialSource } from "./url";

/** Slices that a tile shows of each unit. */
export const TILE_SLICES = 9;

// Up to this many weights, one request carries every slice of every unit: the sheet shows some, a unit's page all of
// them, and going from unit to unit asks the server for nothing.
const WHOLE_LAYER = 1_500_000;

// More images than this would make a person wait for a gradient "over all".
export const MOST_IMAGES = 64;

export const fitsWhole = (layer: Layer): boolean => layer.parameters <= WHOLE_LAYER;

/** What can really be shown of a layer: without weights, its activations stand in. */
export function shownSheet(layer: Layer, wanted: Sheet): Sheet {
  return !layer.has_kernel && (wanted === "weights" || wanted === "weight_gradients") ? "activations" : wanted;
}

/** What spatial gradients can be taken of: kernels need more than one row and column. */
export function shownSource(layer: Layer, wanted: SpatialSource): SpatialSource {
  if (wanted === "activations" || wanted === "image") return wanted;
  const [rows, columns] = layer.kernel_size ?? [1, 1];
  return layer.has_kernel && rows > 1 && columns > 1 ? wanted : "activations";
}

export function needsImages(sheet: Sheet, of: SpatialSource): boolean {
  return !(sheet === "weights" || sheet === "top_patches" || sheet === "projections" || sheet === "optimized" || (sheet === "spatial_gradients" && of === "weights"));
}

type Choice = Pick<PageState, "of" | "objective"> & {
  images: readonly number[];
  image: number | null;
  /** Which state of the study has this layer; null: it isn't mined. */
  revision?: number | null;
};

export function sheetRequest(layer: Layer, sheet: Sheet, choice: Choice): ViewRequest | null {
  const { objective, image } = choice;
  const of = shownSource(layer, choice.of);
  const wholeImage = sheet === "spatial_gradients" && of === "image";
  if ((layer.opaque && !wholeImage) || (needsImages(sheet, of) && image === null)) return null;
  const target = layer.address;
  const one = image === null ? [] : [image];
  switch (sheet) {
    case "weights":
      return { method: sheet, target, parameters: { slices: slicesOf(layer) } };
    case "weight_gradients":
      return { method: sheet, target, images: choice.images, parameters: { objective, slices: slicesOf(layer) } };
    case "activations":
      return { method: sheet, target, images: one };
    case "activation_gradients":
      return { method: sheet, target, images: one, parameters: { objective } };
    // Projections are of the patches; optimized images stand beside them. What they can be sorted by is the study's.
    case "top_patches":
    case "projections":
      return choice.revision ? patchesRequest(layer, choice.revision) : null;
    case "optimized":
      if (choice.revision) return patchesRequest(layer, choice.revision);
      return sheetRequest(layer, layer.has_kernel ? "weights" : "activations", choice);
    case "spatial_gradients": {
      // The image belongs to no layer: the same View whichever layer is open.
      if (of === "image") return { method: sheet, images: one, parameters: { of } };
      if (of === "weights") return { method: sheet, target, parameters: { of, slices: TILE_SLICES } };
      if (of === "activations") return { method: sheet, target, images: one, parameters: { of } };
      return { method: sheet, target, images: choice.images, parameters: { of, objective, slices: TILE_SLICES } };
    }
  }
}

const slicesOf = (layer: Layer): number =>
  fitsWhole(layer) ? 0 : layer.kernel_size?.every((size) => size === 1) ? 256 : TILE_SLICES;

/** A unit's kernel, all slices: from the layer's View where that has them all. */
export function kernelRequest(layer: Layer, channel: number): ViewRequest | null {
  if (!layer.has_kernel) return null;
  if (fitsWhole(layer)) return { method: "weights", target: layer.address, parameters: { slices: 0 } };
  return { method: "weights", target: unitAddress(layer.address, channel), parameters: { slices: 0 } };
}

export function kernelGradientRequest(
  layer: Layer,
  channel: number,
  images: readonly number[],
  objective: string,
): ViewRequest | null {
  if (!layer.has_kernel || images.length === 0) return null;
  const target = fitsWhole(layer) ? layer.address : unitAddress(layer.address, channel);
  return { method: "weight_gradients", target, images, parameters: { objective, slices: 0 } };
}

/** Each image's own gradient of one unit's kernel: as many slices as a tile shows, in the kernel's own order. */
export function imageGradientRequest(
  layer: Layer,
  channel: number,
  images: readonly number[],
  objective: string,
): ViewRequest | null {
  if (!layer.has_kernel || images.length < 2) return null;
  const slices = layer.kernel_size?.every((size) => size === 1) ? 0 : TILE_SLICES;
  const parameters = { objective, slices, per_image: true };
  return { method: "weight_gradients", target: unitAddress(layer.address, channel), images, parameters };
}

export function mapRequest(layer: Layer, image: number | null): ViewRequest | null {
  if (image === null || layer.opaque) return null;
  return { method: "activations", target: layer.address, images: [image] };
}

export function mapGradientRequest(layer: Layer, image: number | null, objective: string): ViewRequest | null {
  if (image === null || layer.opaque) return null;
  return { method: "activation_gradients", target: layer.address, images: [image], parameters: { objective } };
}

export function convolutionRequest(
  layer: Layer,
  channel: number,
  image: number | null,
  objective: string,
): ViewRequest | null {
  if (image === null || !layer.has_kernel) return null;
  return { method: "convolution", target: unitAddress(layer.address, channel), images: [image], parameters: { objective } };
}

export function predictionRequest(images: readonly number[], top: number): ViewRequest | null {
  return images.length ? { method: "predictions", images, parameters: { top } } : null;
}

/** What a study says of a layer: the same path for every state of the study, answered with the newest. */
export const patchesRequest = (layer: Layer, revision: number): ViewRequest => ({ method: "top_patches", target: layer.address, revision });
