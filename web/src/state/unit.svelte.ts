// The unit on the right: its kernel, gradient, map and one number taken apart, each from a View that may already be here.

import { arrayOf, axisSize, unitIndex, type NamedArray, type View } from "../api/view";
import type { Plane } from "../paint/planes";
import { fullScale, rangeOf, type Range, type Scale } from "../paint/scale";
import type { Position } from "./address";
import { readConvolution, shareNorms, takeApart } from "./convolution";
import type { Explorer } from "./explorer.svelte";
import { FieldState } from "./field.svelte";
import {
  convolutionRequest,
  imageGradientRequest,
  kernelGradientRequest,
  kernelRequest,
  mapGradientRequest,
  mapRequest,
  predictionRequest,
} from "./requests";

/** One unit's slices of a kernel-like array. */
export interface Slices {
  readonly planes: Plane[];
  readonly channels: number[];
  readonly layout: string;
  readonly rows: number;
  readonly columns: number;
  readonly range: Range;
  readonly scale: Scale;
}

export function unitSlices(view: View, name: string, channel: number): Slices | null {
  const array = arrayOf(view, name);
  const [units, slices] = [axisSize(array, "unit"), axisSize(array, "slice")];
  const [rows, columns] = [axisSize(array, "row"), axisSize(array, "column")];
  const index = unitIndex(view, channel, units);
  if (index < 0) return null;
  const size = rows * columns;
  const channels = view.arrays.get("channel")?.data;
  const range = view.meta.ranges[name];
  return {
    planes: Array.from({ length: slices }, (_, slice) => ({
      data: array.data,
      offset: (index * slices + slice) * size,
      rows,
      columns,
    })),
    channels: Array.from({ length: slices }, (_, slice) => (channels ? channels[index * slices + slice] : slice)),
    layout: String(view.meta.layout ?? "slices"),
    rows,
    columns,
    range,
    scale: fullScale(range, "signed"),
  };
}

/** One unit's own gradient for each image; the scale is that of the image that pulls hardest. */
export function imageSlices(view: View): { images: Omit<Slices, "range" | "scale">[]; scale: Scale } {
  const array = arrayOf(view, "image_gradient");
  const [slices, rows, columns] = [axisSize(array, "slice"), axisSize(array, "row"), axisSize(array, "column")];
  const size = rows * columns;
  const named = view.arrays.get("channel")?.data;
  const channels = Array.from({ length: slices }, (_, slice) => (named ? named[slice] : slice));
  const images = Array.from({ length: axisSize(array, "image") }, (_, image) => ({
    planes: channels.map((_, slice) => ({ data: array.data, offset: (image * slices + slice) * size, rows, columns })),
    channels,
    layout: String(view.meta.layout ?? "slices"),
    rows,
    columns,
  }));
  return { images, scale: fullScale(rangeOf(array.data), "signed") };
}

/** One unit's map out of a layer's. */
export function unitPlane(view: View, name: string, channel: number): Plane | null {
  const array = arrayOf(view, name);
  const [rows, columns] = [axisSize(array, "row"), axisSize(array, "column")];
  const index = unitIndex(view, channel, axisSize(array, "unit"));
  return index < 0 ? null : { data: array.data, offset: index * rows * columns, rows, columns };
}

/** A number per unit, of the first image where there are several. */
export function unitNumber(view: View | null, name: string, channel: number): number | null {
  const array = view?.arrays.get(name);
  if (!view || !array) return null;
  const index = unitIndex(view, channel, axisSize(array, "unit"));
  return index < 0 ? null : array.data[index];
}

const STEP_PAUSE = 120;
const OWN_PAUSE = 300;

export class UnitState {
  readonly kernel;
  readonly gradient;
  readonly ownGradients;
  readonly map;
  readonly mapGradient;
  readonly convolution;
  readonly predictions;
  readonly field;

  constructor(readonly explorer: Explorer) {
    this.field = new FieldState(explorer.source);
    this.kernel = explorer.resource();
    this.gradient = explorer.resource();
    this.ownGradients = explorer.resource();
    this.map = explorer.resource();
    this.mapGradient = explorer.resource();
    this.convolution = explorer.resource();
    this.predictions = explorer.resource();
  }

  /** Ask for what the unfolded sections need; call inside an effect. */
  load(): void {
    const { layer, channel, image, gradientImages, page } = this.explorer;
    const open = (name: string) => page.inspector && !page.folded.includes(name);
    const id = image?.id ?? null;
    const usable = layer !== null && channel !== null && !layer.opaque;
    const kernels = usable && (open("kernel") || page.pins.length > 0);
    this.kernel.load(kernels ? kernelRequest(layer, channel) : null);
    this.gradient.load(kernels ? kernelGradientRequest(layer, channel, gradientImages, page.objective) : null);
    // A run of the network per unit: only where the pictures are looked at, and not while units rush by.
    const pulls = kernels && open("kernel") && open("pulls") && page.over === "all";
    this.ownGradients.load(pulls ? imageGradientRequest(layer, channel, gradientImages, page.objective) : null, OWN_PAUSE);
    this.map.load(usable && (open("map") || open("step")) ? mapRequest(layer, id) : null);
    this.convolution.load(usable && open("step") ? convolutionRequest(layer, channel, id, page.objective) : null, STEP_PAUSE);
    this.predictions.load(open("classes") && id !== null ? predictionRequest([id], 5) : null);
  }

  /** Ask for what the neuron in question sees; call inside an effect. */
  look(): void {
    const { layer, channel, imageSize, page } = this.explorer;
    const open = page.inspector && !page.folded.includes("map") && layer !== null && layer.shape[1] * layer.shape[2] > 1;
    this.field.look(open ? layer : null, channel, this.position, imageSize);
  }

  /** Only when its switch asks for it. */
  loadMapGradient(wanted: boolean): void {
    const { layer, image, page } = this.explorer;
    this.mapGradient.load(wanted && layer && !layer.opaque ? mapGradientRequest(layer, image?.id ?? null, page.objective) : null);
  }

  readonly kernelSlices = $derived.by(() => this.slices(this.kernel.current, "kernel"));
  readonly gradientSlices = $derived.by(() => this.slices(this.gradient.current, "gradient"));
  /** Each image's own gradient, in the order of the images asked for, all on one scale. */
  readonly imageGradients = $derived.by(() => {
    const view = this.own(this.ownGradients.current);
    return view ? imageSlices(view) : null;
  });
  readonly ratio = $derived.by(() => this.number(this.gradient.current, "ratio"));
  readonly plane = $derived.by(() => {
    const { channel } = this.explorer;
    const view = this.own(this.map.current);
    return view && channel !== null ? unitPlane(view, "map", channel) : null;
  });
  readonly maximumPlace: Position | null = $derived.by(() => {
    const { channel } = this.explorer;
    const view = this.own(this.map.current);
    const place = view?.arrays.get("place");
    if (!view || !place || channel === null) return null;
    const index = unitIndex(view, channel, axisSize(place, "unit"));
    return index < 0 ? null : { row: place.data[2 * index], column: place.data[2 * index + 1] };
  });
  /** Under the pointer, else chosen, else where the map is largest. */
  readonly position: Position | null = $derived.by(() => {
    const { hover, layer, channel, page } = this.explorer;
    if (!layer) return null;
    const pointed = hover && hover.layer === layer.address && hover.channel === channel ? hover.position : null;
    const position = pointed ?? page.unit.position ?? this.maximumPlace;
    return position && position.row < layer.shape[1] && position.column < layer.shape[2] ? position : null;
  });
  readonly value = $derived.by(() => {
    const { plane, position } = this;
    return plane && position ? plane.data[plane.offset + position.row * plane.columns + position.column] : null;
  });

  readonly apart = $derived.by(() => {
    const view = this.own(this.convolution.current);
    return view ? readConvolution(view) : null;
  });
  readonly shareNorms = $derived.by(() => this.apart ? shareNorms(this.apart) : null);
  readonly taken = $derived.by(() => {
    const { apart, position } = this;
    if (!apart || !position || position.row >= apart.outputRows || position.column >= apart.outputColumns) return null;
    return takeApart(apart, position);
  });

  number(view: View | null, name: string): number | null {
    const { channel } = this.explorer;
    return channel === null ? null : unitNumber(this.own(view), name, channel);
  }

  /** A View only if it is of the chosen layer: right after a jump, the new layer's hasn't been asked for yet. */
  private own(view: View | null): View | null {
    return view && view.meta.layer === this.explorer.layer?.address ? view : null;
  }

  private slices(view: View | null, name: string): Slices | null {
    const { channel } = this.explorer;
    const own = this.own(view);
    return own && channel !== null ? unitSlices(own, name, channel) : null;
  }
}

/** A row of an [image, unit] array for one unit. */
export function perImage(view: View, name: string, channel: number): number[] {
  const array: NamedArray | undefined = view.arrays.get(name);
  if (!array) return [];
  const units = axisSize(array, "unit");
  const index = unitIndex(view, channel, units);
  return Array.from({ length: axisSize(array, "image") }, (_, image) => array.data[image * units + index]);
}
