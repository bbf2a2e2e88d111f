// The layer table as a person reads it: calls in order, grouped by module path, plumbing quiet, skips as arcs.

import type { Layer } from "../api/schema";

export interface SpineRow {
  readonly kind: "group" | "layer";
  /** A group's module path, a layer's address. */
  readonly key: string;
  /** What is written: the part of the address that its group doesn't say. */
  readonly label: string;
  readonly depth: number;
  /** The layer; for a group the block's own call, if it has one. */
  readonly layer: Layer | null;
  readonly quiet: boolean;
  /** Groups around it, outermost first. */
  readonly parents: readonly string[];
}

// Operations that only move or rename numbers: shown small.
const QUIET = new Set([
  "flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "dropout", "identity",
  "size", "getitem", "__getitem__", "chunk", "split", "detach", "clone", "to", "float", "dropout2d", "stochasticdepth",
  "droppath", "zeropad2d", "constantpad2d", "pad", "unflatten", "expand", "narrow", "select", "unbind",
]);

export const isQuiet = (layer: Layer): boolean => QUIET.has(layer.kind.toLowerCase());

export function spineRows(layers: readonly Layer[]): SpineRow[] {
  const blocks = new Map<string, Layer>();
  for (const layer of layers) if (layer.operation === "block" && !layer.call) blocks.set(layer.address, layer);
  const groups = groupPaths(layers, blocks);
  const rows: SpineRow[] = [];
  const open: string[] = [];
  for (const layer of layers) {
    if (groups.has(layer.address)) continue;
    const parents = ancestors(layer.path).filter((path) => groups.has(path));
    let shared = 0;
    while (shared < open.length && shared < parents.length && open[shared] === parents[shared]) shared++;
    open.length = shared;
    for (const path of parents.slice(shared)) {
      const outer = [...open];
      const label = within(path, outer.at(-1));
      rows.push({ kind: "group", key: path, label, depth: outer.length, layer: blocks.get(path) ?? null, quiet: false, parents: outer });
      open.push(path);
    }
    const label = within(layer.address, open.at(-1));
    rows.push({ kind: "layer", key: layer.address, label, depth: open.length, layer, quiet: isQuiet(layer), parents: [...open] });
  }
  return rows;
}

/** Module paths worth a group: those with more than one call inside. */
function groupPaths(layers: readonly Layer[], blocks: ReadonlyMap<string, Layer>): Set<string> {
  const children = new Map<string, number>();
  for (const layer of layers) {
    if (layer.operation === "block") continue;
    for (const path of ancestors(layer.path)) children.set(path, (children.get(path) ?? 0) + 1);
  }
  const groups = new Set<string>();
  for (const [path, count] of children) if (count > 1 || blocks.has(path)) groups.add(path);
  return groups;
}

function ancestors(path: string): string[] {
  const parts = path.split(".");
  return parts.slice(1).map((_, index) => parts.slice(0, index + 1).join("."));
}

const within = (path: string, parent: string | undefined): string =>
  parent && path.startsWith(`${parent}.`) ? path.slice(parent.length + 1) : path;

/** Rows that folding leaves. */
export function unfolded(rows: readonly SpineRow[], closed: ReadonlySet<string>): SpineRow[] {
  return rows.filter((row) => !row.parents.some((parent) => closed.has(parent)));
}

export interface Arc {
  readonly from: number;
  readonly to: number;
  /** 0 is nearest to the rows; arcs that overlap lie in different lanes. */
  readonly lane: number;
  readonly source: string;
  readonly target: string;
}

/** Connections that aren't simply "the row above": skips and branches, between visible rows. */
export function arcs(rows: readonly SpineRow[], layers: readonly Layer[], maximumLanes = 4): Arc[] {
  const place = visiblePlaces(rows, layers);
  const found: Omit<Arc, "lane">[] = [];
  const seen = new Set<string>();
  for (const layer of layers) {
    const to = place.get(layer.address);
    // A block receives what its first call receives, and is no call of its own on the screen.
    if (to === undefined || layer.operation === "block") continue;
    for (const input of layer.inputs) {
      const from = input === "input" ? -1 : place.get(input);
      if (from === undefined || from < 0 || from >= to - 1 || onlyHeadersBetween(rows, from, to)) continue;
      const key = `${from} ${to}`;
      if (seen.has(key)) continue;
      seen.add(key);
      found.push({ from, to, source: input, target: layer.address });
    }
  }
  return assignLanes(found, maximumLanes);
}

/** A layer inside a folded group stands at the group's row; a block with its own row at that. */
function visiblePlaces(rows: readonly SpineRow[], layers: readonly Layer[]): Map<string, number> {
  const index = new Map(rows.map((row, at) => [row.key, at]));
  const lastInside = new Map<string, number>();
  rows.forEach((row, at) => row.parents.forEach((parent) => lastInside.set(parent, at)));
  const places = new Map<string, number>();
  for (const layer of layers) {
    // A block's output leaves at its last row.
    const own = lastInside.get(layer.address) ?? index.get(layer.address);
    const folded = ancestors(layer.path).find((path) => index.has(path) && !lastInside.has(path));
    const at = folded !== undefined ? index.get(folded) : own;
    if (at !== undefined) places.set(layer.address, at);
  }
  return places;
}

function onlyHeadersBetween(rows: readonly SpineRow[], from: number, to: number): boolean {
  for (let at = from + 1; at < to; at++) if (rows[at].kind === "layer") return false;
  return true;
}

function assignLanes(found: Omit<Arc, "lane">[], maximum: number): Arc[] {
  const ends: number[] = [];
  return [...found]
    .sort((one, other) => one.from - other.from || other.to - one.to)
    .map((arc) => {
      let lane = ends.findIndex((end) => end <= arc.from);
      if (lane < 0) lane = ends.length < maximum ? ends.length : maximum - 1;
      ends[lane] = Math.max(ends[lane] ?? 0, arc.to);
      return { ...arc, lane };
    });
}

/** Width of a channel bar, 0…1: logarithmic, full at the widest layer. */
export function channelBar(units: number, widest: number): number {
  return units > 0 ? Math.log2(units + 1) / Math.log2(Math.max(2, widest + 1)) : 0;
}
