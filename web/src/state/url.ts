// The address bar is the state. Only what differs from the defaults is written, in a fixed order.

import type { OverlayMode } from "../paint/overlay";
import { POSITIVE_MAPS, SIGNED_MAPS, type PositiveMap, type SignedMap, type Theme } from "../paint/colormap";
import { formatAddress, parseAddress, type Address } from "./address";
import { CUTS, WHICH, type Cut, type Which } from "./patches";
import { QUANTITIES, USUAL, type Quantity } from "./train/pictures";

export const TABS = ["explore", "gallery", "image", "train"] as const;
export type Tab = (typeof TABS)[number];

export const SHEETS = ["weights", "weight_gradients", "spatial_gradients", "activations", "activation_gradients", "top_patches", "projections", "optimized"] as const;
export type Sheet = (typeof SHEETS)[number];

export const SPATIAL_SOURCES = ["weights", "weight_gradients", "activations", "image"] as const;
export type SpatialSource = (typeof SPATIAL_SOURCES)[number];

export const COMPONENTS = ["magnitude", "row", "column"] as const;
export type Component = (typeof COMPONENTS)[number];

export const PHOTO_MODES = ["beside", "over"] as const;
export type PhotoMode = (typeof PHOTO_MODES)[number];

/** How a unit's answer is brought back to the pixels. */
export const PROJECTORS = ["deconvnet", "guided_backprop", "gradient"] as const;
export type Projector = (typeof PROJECTORS)[number];

/** What the image page asks of the chosen image. */
export const LOOKS = ["attribution", "inversion", "invariance", "correspondence"] as const;
export type Look = (typeof LOOKS)[number];

export const OVERLAYS = ["over", "map", "photo"] as const;

/** What the Train page is about: the network as it learns, one backward pass, a race of optimizers, a new run. */
export const TRAIN_PARTS = ["network", "lesson", "race", "new"] as const;
export type TrainPart = (typeof TRAIN_PARTS)[number];

export const TRAIN_SIZES = ["small", "medium", "large"] as const;
export type TrainSize = (typeof TRAIN_SIZES)[number];

export const MAXIMUM_PINS = 4;
export const SMALLEST_TILE = 16;
export const LARGEST_TILE = 256;
export const LARGEST_THUMB = 160;
export const SMALLEST_CELL = 80;
export const LARGEST_CELL = 320;
export const MOST_ASKED = 8;
export const MOST_AMONG = 6;

export interface PageState {
  /** First hexadecimal digits of the fingerprint the link was made for; "" in a fresh page. */
  network: string;
  tab: Tab;
  /** Layer, unit and position; layer "" before the first network is known. */
  unit: Address;
  image: number | null;
  sheet: Sheet;
  of: SpatialSource;
  component: Component;
  objective: string;
  /** Weight gradients over the chosen image or over all of them. */
  over: "image" | "all";
  sort: string;
  descending: boolean;
  filter: string;
  /** CSS pixels; 0: as large as lets every unit fit. */
  tile: number;
  scale: "layer" | "unit";
  /** The part of the values that the scale covers: all, or 99.5 %. */
  clip: boolean;
  signed: SignedMap;
  positive: PositiveMap;
  photo: PhotoMode;
  /** Patches: of which images, what of each, and the one that is open beside its whole image. */
  which: Which;
  cut: Cut;
  rank: number | null;
  /** CSS pixels of a patch in the gallery. */
  thumb: number;
  /** The units' numbers as a table instead of pictures. */
  table: boolean;
  pins: string[];
  /** Folded inspector sections and spine groups. */
  folded: string[];
  closed: string[];
  spine: boolean;
  inspector: boolean;
  theme: Theme | null;
  /** Back to the pixels: of a unit. */
  projector: Projector;
  preset: string;
  /** The image page: what is asked of the image, of which objectives (none: its top classes), and how maps are shown. */
  look: Look;
  asked: string[];
  overlay: OverlayMode;
  /** One scale for all maps of a method, or one for each. */
  mapScale: "row" | "own";
  /** The scale covers the strongest half percent of a map too. */
  whole: boolean;
  /** CSS pixels of a map in the matrix; 0: as large as lets all columns fit. */
  cell: number;
  /** "method|objective" of the chosen map, whether it has the page for itself, and those whose checks are shown. */
  chosen: string;
  large: boolean;
  checked: string[];
  /** Methods that take long, and were asked for. */
  started: string[];
  /** The layer of Grad-CAM; "": the last one with positions. */
  camLayer: string;
  /** Correspondence: the images that are compared, and the parts that are masked, as the library writes them. */
  among: string[];
  parts: string;
  /** Training: the run, the recorded step that is shown (null: the newest), and "run@step" to show beside it. */
  run: string;
  step: number | null;
  beside: string;
  part: TrainPart;
  trained: Address;
  panels: Quantity[];
  size: TrainSize;
  /** Which image of those that the panels' maps are of, and the held-out image whose backward pass is taken apart. */
  picture: number;
  sample: number | null;
  /** The loss on a logarithmic axis. */
  log: boolean;
}

export const DEFAULTS: Readonly<PageState> = {
  network: "",
  tab: "explore",
  unit: { layer: "", channel: null, position: null },
  image: null,
  sheet: "weights",
  of: "weights",
  component: "magnitude",
  objective: "loss",
  over: "image",
  sort: "index",
  descending: false,
  filter: "",
  tile: 0,
  scale: "layer",
  clip: false,
  signed: "orange-blue",
  positive: "viridis",
  photo: "beside",
  which: "top",
  cut: "crop",
  rank: null,
  thumb: 56,
  table: false,
  pins: [],
  folded: [],
  closed: [],
  spine: true,
  inspector: true,
  theme: null,
  projector: "deconvnet",
  preset: "",
  look: "attribution",
  asked: [],
  overlay: "over",
  mapScale: "row",
  whole: false,
  cell: 0,
  chosen: "",
  large: false,
  checked: [],
  started: [],
  camLayer: "",
  among: [],
  parts: "",
  run: "",
  step: null,
  beside: "",
  part: "network",
  trained: { layer: "", channel: null, position: null },
  panels: [...USUAL],
  size: "medium",
  picture: 0,
  sample: null,
  log: false,
};

type Field<Name extends keyof PageState> = {
  key: string;
  write: (value: PageState[Name]) => string;
  /** Undefined: not a value of this field; the default is kept. */
  read: (text: string) => PageState[Name] | undefined;
};

const oneOf =
  <Value extends string>(values: readonly Value[]) =>
  (text: string): Value | undefined =>
    values.find((value) => value === text);
const text = (value: string) => value;
const flag = {
  write: (value: boolean) => (value ? "1" : "0"),
  read: (value: string) => (value === "1" ? true : value === "0" ? false : undefined),
};
const wholeNumber = (value: string) => (/^\d{1,9}$/.test(value) ? Number(value) : undefined);
// Items may hold commas (positions), so a list is joined by "~", which no layer name holds.
const list = {
  write: (items: string[]) => items.join("~"),
  read: (value: string) => value.split("~").filter((item) => item !== ""),
};

const tileSize = (value: string, largest: number) => {
  const size = wholeNumber(value);
  return size ? Math.min(largest, Math.max(SMALLEST_TILE, size)) : undefined;
};

/** A column of the matrix: a class's score, the loss, or the chosen unit. */
const isAsked = (value: string) => /^(score(:\d{1,6})?|loss(:(\d{1,6}|predicted|true))?|unit)$/.test(value);
const isCell = (value: string) => {
  const [method, asked, ...rest] = value.split("|");
  return /^[a-z0-9_]{1,60}$/.test(method) && asked !== undefined && isAsked(asked) && rest.length === 0;
};
const cellSize = (value: string) => {
  const size = wholeNumber(value);
  return size ? Math.min(LARGEST_CELL, Math.max(SMALLEST_CELL, size)) : undefined;
};

const FIELDS: { [Name in keyof PageState]: Field<Name> } = {
  network: { key: "network", write: text, read: (value) => (/^[0-9a-f]{1,64}$/.test(value) ? value : undefined) },
  tab: { key: "tab", write: text, read: oneOf(TABS) },
  unit: { key: "unit", write: formatAddress, read: (value) => parseAddress(value) ?? undefined },
  image: { key: "image", write: String, read: wholeNumber },
  sheet: { key: "show", write: text, read: oneOf(SHEETS) },
  of: { key: "of", write: text, read: oneOf(SPATIAL_SOURCES) },
  component: { key: "component", write: text, read: oneOf(COMPONENTS) },
  objective: { key: "objective", write: text, read: (value) => (value.length <= 300 ? value : undefined) },
  over: { key: "over", write: text, read: oneOf(["image", "all"] as const) },
  sort: { key: "sort", write: text, read: (value) => (/^\w{1,40}$/.test(value) ? value : undefined) },
  descending: { key: "descending", ...flag },
  filter: { key: "filter", write: text, read: (value) => value.slice(0, 300) },
  tile: { key: "tile", write: String, read: (value) => tileSize(value, LARGEST_TILE) },
  scale: { key: "scale", write: text, read: oneOf(["layer", "unit"] as const) },
  clip: { key: "clip", ...flag },
  signed: { key: "signed", write: text, read: oneOf(SIGNED_MAPS) },
  positive: { key: "positive", write: text, read: oneOf(POSITIVE_MAPS) },
  photo: { key: "photo", write: text, read: oneOf(PHOTO_MODES) },
  which: { key: "which", write: text, read: oneOf(WHICH) },
  cut: { key: "cut", write: text, read: oneOf(CUTS) },
  rank: { key: "rank", write: (value) => String(value ?? ""), read: wholeNumber },
  thumb: { key: "thumb", write: String, read: (value) => tileSize(value, LARGEST_THUMB) },
  table: { key: "table", ...flag },
  pins: {
    key: "pins",
    write: list.write,
    read: (value) =>
      list
        .read(value)
        .filter((pin) => parseAddress(pin)?.channel != null)
        .slice(0, MAXIMUM_PINS),
  },
  folded: { key: "folded", ...list },
  closed: { key: "closed", ...list },
  spine: { key: "spine", ...flag },
  inspector: { key: "inspector", ...flag },
  theme: { key: "theme", write: (value) => value ?? "", read: oneOf(["light", "dark"] as const) },
  projector: { key: "project", write: text, read: oneOf(PROJECTORS) },
  preset: { key: "preset", write: text, read: (value) => (/^[a-z0-9_-]{1,40}$/.test(value) ? value : undefined) },
  look: { key: "look", write: text, read: oneOf(LOOKS) },
  asked: { key: "ask", write: list.write, read: (value) => list.read(value).filter(isAsked).slice(0, MOST_ASKED) },
  overlay: { key: "overlay", write: text, read: oneOf(OVERLAYS) },
  mapScale: { key: "range", write: text, read: oneOf(["row", "own"] as const) },
  whole: { key: "whole", ...flag },
  cell: { key: "cell", write: String, read: cellSize },
  chosen: { key: "map", write: text, read: (value) => (isCell(value) ? value : undefined) },
  large: { key: "large", ...flag },
  checked: { key: "checked", write: list.write, read: (value) => list.read(value).filter(isCell) },
  started: { key: "started", write: list.write, read: (value) => list.read(value).filter((each) => /^[a-z0-9_]{1,60}$/.test(each)) },
  camLayer: { key: "cam", write: text, read: (value) => (parseAddress(value)?.channel === null ? value : undefined) },
  among: { key: "among", write: list.write, read: (value) => list.read(value).filter((each) => wholeNumber(each) !== undefined).slice(0, MOST_AMONG) },
  parts: { key: "parts", write: text, read: (value) => (value.length <= 800 ? value : undefined) },
  run: { key: "run", write: text, read: (value) => (/^[a-z0-9_-]{1,64}$/.test(value) ? value : undefined) },
  step: { key: "step", write: (value) => String(value ?? ""), read: wholeNumber },
  beside: { key: "beside", write: text, read: (value) => (/^[a-z0-9_-]{1,64}@\d{1,9}$/.test(value) ? value : undefined) },
  part: { key: "part", write: text, read: oneOf(TRAIN_PARTS) },
  trained: { key: "trained", write: formatAddress, read: (value) => parseAddress(value) ?? undefined },
  panels: {
    key: "panels",
    write: list.write,
    read: (value) => QUANTITIES.filter((each) => list.read(value).includes(each)),
  },
  size: { key: "size", write: text, read: oneOf(TRAIN_SIZES) },
  picture: { key: "picture", write: String, read: wholeNumber },
  sample: { key: "sample", write: (value) => String(value ?? ""), read: wholeNumber },
  log: { key: "log", ...flag },
};

const NAMES = Object.keys(FIELDS) as (keyof PageState)[];

const same = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other);

// Legible in an address bar: these need no escape in a fragment, and none of them separates fields.
const escape = (value: string) =>
  encodeURIComponent(value).replace(/%(3A|2C|40|2F|3C|3E|20)/gi, (code) =>
    code === "%20" ? "+" : /3C|3E/i.test(code) ? code : decodeURIComponent(code),
  );
const unescape = (value: string): string => {
  try {
    return decodeURIComponent(value.replaceAll("+", "%20"));
  } catch {
    return "";
  }
};

/** The hash of a state, without "#". */
export function writeHash(state: PageState): string {
  const written: string[] = [];
  for (const name of NAMES) {
    const field = FIELDS[name] as Field<typeof name>;
    if (!same(state[name], DEFAULTS[name])) written.push(`${field.key}=${escape(field.write(state[name] as never))}`);
  }
  return written.join("&");
}

/** The state of a hash; what it doesn't say, or says wrongly, is as in the defaults. */
export function readHash(hash: string): PageState {
  const state = structuredClone(DEFAULTS) as PageState;
  const given = new Map<string, string>();
  for (const part of hash.replace(/^#/, "").split("&")) {
    const equals = part.indexOf("=");
    if (equals > 0) given.set(part.slice(0, equals), unescape(part.slice(equals + 1)));
  }
  for (const name of NAMES) {
    const field = FIELDS[name] as Field<typeof name>;
    const value = given.get(field.key);
    const read = value === undefined ? undefined : field.read(value);
    if (read !== undefined) (state as unknown as Record<string, unknown>)[name] = read;
  }
  return state;
}

/** Changes that deserve a step in the browser's history; the rest only rewrites the address. */
const STEPS: readonly (keyof PageState)[] = ["tab", "unit", "image", "sheet", "of", "component", "objective", "over", "which", "cut", "rank", "pins", "projector", "look", "asked", "large", "run", "beside", "part", "trained", "sample"];

export function isStep(before: PageState, after: PageState): boolean {
  return STEPS.some((name) => {
    // Opening a patch is a step; going on to the next one is not.
    if (name === "rank") return (before.rank === null) !== (after.rank === null);
    if (name === "trained") return before.trained.layer !== after.trained.layer;
    if (name !== "unit") return !same(before[name], after[name]);
    return before.unit.layer !== after.unit.layer || before.unit.channel !== after.unit.channel;
  });
}
