// The image page's matrix: a map for every method and every column, a few computed at a time, in the order they are read.

import { SvelteMap } from "svelte/reactivity";

import { arrayOf, axisSize, type View } from "../api/view";
import type { Scale } from "../paint/scale";
import { viewKey, type ViewRequest } from "../sources/source";
import {
  cellKey,
  cellRequest,
  checkRequest,
  classOf,
  columnsOf,
  kindOf,
  mapScale,
  matrixMethods,
  readMap,
  sharedScale,
  type Asked,
  type ImageMap,
  type MatrixMethod,
  type Point,
} from "./attribution";
import { readChecks, type Checks } from "./checks";
import type { Explorer } from "./explorer.svelte";
import { reasonText } from "./offers.svelte";
import { predictionRequest } from "./requests";
import type { Resource } from "./resource.svelte";

// Browsers keep six connections to a server, and a click elsewhere should find one free.
const AT_ONCE = 3;
const TOP = 5;

export interface Predicted {
  readonly number: number;
  readonly probability: number;
  readonly score: number;
}

export interface Row {
  readonly method: MatrixMethod;
  /** Why no cell of this row can be computed; "" where they can. */
  readonly refused: string;
  /** It waits for someone to ask for it. */
  readonly waiting: boolean;
}

export class MatrixState {
  readonly predictions: Resource;
  /** Under the pointer, or where the arrow keys led: the same place in every map. */
  point = $state.raw<Point | null>(null);
  private readonly cells = new SvelteMap<string, Resource>();
  private readonly checks = new SvelteMap<string, Resource>();
  private readonly maps = new WeakMap<View, ImageMap>();
  private readonly read = new WeakMap<View, Checks>();
  private readonly limits = new WeakMap<View, Map<boolean, Scale>>();

  constructor(private readonly explorer: Explorer) {
    this.predictions = explorer.resource();
  }

  readonly methods: readonly MatrixMethod[] = $derived.by(() => matrixMethods(this.explorer.session));
  readonly predicted: readonly Predicted[] = $derived.by(() => {
    const view = this.predictions.view;
    if (!view) return [];
    const [probability, score, index] = [arrayOf(view, "probability"), arrayOf(view, "score"), arrayOf(view, "class")];
    return Array.from({ length: axisSize(probability, "rank") }, (_, rank) => ({
      number: index.data[rank],
      probability: probability.data[rank],
      score: score.data[rank],
    }));
  });
  readonly columns: readonly string[] = $derived.by(() => columnsOf(this.explorer.page.asked, this.predictions.current ? this.predicted.map((each) => each.number) : []));
  private readonly asked: Asked | null = $derived.by(() => {
    const { image, page, address } = this.explorer;
    const { position } = page.unit;
    const unit = address && position ? `${address}:${position.row},${position.column}` : address;
    return image ? { image: image.id, unit, camLayer: page.camLayer } : null;
  });
  readonly rows: readonly Row[] = $derived.by(() =>
    this.methods.map((method) => ({
      method,
      refused: method.missing || this.foretold(method.name) || this.refusal(method.name),
      waiting: method.slow && !this.explorer.page.started.includes(method.name),
    })),
  );

  /** The chosen cell: what the address says, else the first one. */
  readonly chosen: { method: string; column: string } | null = $derived.by(() => {
    const [method, column] = this.explorer.page.chosen.split("|");
    const { columns } = this;
    const row = this.rows.find((each) => each.method.name === method) ?? this.rows.find((each) => !each.refused && !each.waiting);
    if (!row || !columns.length) return null;
    return { method: row.method.name, column: columns.includes(column) ? column : columns[0] };
  });

  request(method: string, column: string): ViewRequest | null {
    return this.asked && cellRequest(method, column, this.asked);
  }

  checkRequest(method: string, column: string): ViewRequest | null {
    return this.asked && checkRequest(method, column, this.asked);
  }

  /** All of it in one picture, to be saved: the methods that are shown, and the classes that are asked about. */
  get wholeRequest(): ViewRequest | null {
    const { image, session } = this.explorer;
    const classes = this.columns.map(classOf).filter((each) => each !== null);
    const methods = this.rows.filter((row) => !row.refused && !row.waiting).map((row) => row.method.name);
    if (!image || !classes.length || !methods.length || !session?.methods.some((each) => each.name === "attribution_matrix")) return null;
    return { method: "attribution_matrix", images: [image.id], parameters: { methods: methods.join(","), classes: classes.join(",") } };
  }

  cell(method: string, column: string): Resource | null {
    return this.cells.get(cellKey(method, column)) ?? null;
  }

  check(method: string, column: string): Resource | null {
    return this.checks.get(cellKey(method, column)) ?? null;
  }

  isChecked(method: string, column: string): boolean {
    return this.explorer.page.checked.includes(cellKey(method, column));
  }

  toggleCheck(method: string, column: string): void {
    const { page } = this.explorer;
    const key = cellKey(method, column);
    page.checked = page.checked.includes(key) ? page.checked.filter((each) => each !== key) : [...page.checked, key];
  }

  choose(method: string, column: string): void {
    this.explorer.page.chosen = cellKey(method, column);
  }

  /** Ask for what the matrix shows, from top to bottom, a few at a time; call inside an effect. */
  load(): void {
    const { image, page } = this.explorer;
    const here = page.tab === "image" && page.look === "attribution";
    if (page.tab === "image") this.predictions.load(image ? predictionRequest([image.id], TOP) : null);
    if (!here || !image) return this.rest();
    const { offers, address } = this.explorer;
    const targets = this.columns.includes("unit") ? ["", address] : [""];
    targets.forEach((target) => offers.ask(target));
    if (!targets.every((target) => offers.has(target))) return;
    const wanted: { resource: Resource; request: ViewRequest; long: boolean }[] = [];
    for (const row of this.rows) {
      if (row.waiting || row.method.missing || this.foretold(row.method.name)) continue;
      for (const [place, column] of this.columns.entries()) {
        const request = this.request(row.method.name, column);
        // What is refused for one class is refused for the next one too.
        if (!request || (row.refused && place > 0)) continue;
        wanted.push({ resource: this.own(this.cells, cellKey(row.method.name, column)), request, long: row.method.long });
      }
    }
    // What is there in a moment isn't kept waiting by what takes long.
    wanted.sort((one, other) => Number(one.long) - Number(other.long));
    this.forget(this.cells, new Set(wanted.map(({ resource }) => resource)));
    this.turn(wanted, AT_ONCE);
    const checks: { resource: Resource; request: ViewRequest }[] = [];
    for (const key of page.checked) {
      const [method, column] = key.split("|");
      const request = this.columns.includes(column) && this.methods.some((each) => each.name === method) ? this.checkRequest(method, column) : null;
      if (request) checks.push({ resource: this.own(this.checks, key), request });
    }
    this.forget(this.checks, new Set(checks.map(({ resource }) => resource)));
    this.turn(checks, 1);
  }

  /** Those that are on their way go on; of the others, the first ones begin. */
  private turn(wanted: readonly { resource: Resource; request: ViewRequest }[], most: number): void {
    const same = (resource: Resource, request: ViewRequest) => resource.wanted !== null && viewKey(resource.wanted) === viewKey(request);
    let free = most - wanted.filter(({ resource, request }) => same(resource, request) && resource.loading).length;
    for (const { resource, request } of wanted) {
      if (same(resource, request)) continue;
      if (this.explorer.cache.peek(request)) resource.load(request);
      else if (free > 0) {
        free--;
        resource.load(request);
      } else if (resource.loading) resource.stop();
    }
  }

  private own(among: SvelteMap<string, Resource>, key: string): Resource {
    const known = among.get(key);
    if (known) return known;
    const made = this.explorer.resource();
    among.set(key, made);
    return made;
  }

  private forget(among: SvelteMap<string, Resource>, kept: ReadonlySet<Resource>): void {
    for (const [key, resource] of [...among]) {
      if (kept.has(resource)) continue;
      this.explorer.release(resource);
      among.delete(key);
    }
  }

  private rest(): void {
    this.forget(this.cells, new Set());
    this.forget(this.checks, new Set());
  }

  /** What is known without trying; of the classes and of the unit, since a unit's way to the pixels is a part of the whole. */
  private foretold(method: string): string {
    const { columns, explorer } = this;
    const reasons = columns.map((column) => explorer.offers.refusal(method, column === "unit" ? explorer.address : ""));
    return reasons.every(Boolean) ? (reasons[0] ?? "") : "";
  }

  private refusal(method: string): string {
    for (const column of this.columns) {
      const failure = this.cell(method, column)?.failure;
      if (failure?.refused) return reasonText(failure.description);
    }
    return "";
  }

  /** The map of a View, read once. */
  mapOf(view: View | null): ImageMap | null {
    if (!view?.arrays.has("map")) return null;
    const known = this.maps.get(view) ?? readMap(view);
    this.maps.set(view, known);
    return known;
  }

  checksOf(view: View | null): Checks | null {
    if (!view) return null;
    const known = this.read.get(view) ?? readChecks(view);
    this.read.set(view, known);
    return known;
  }

  private ownScale(view: View): Scale | null {
    const map = this.mapOf(view);
    if (!map) return null;
    const { clip } = this;
    const known = this.limits.get(view) ?? new Map<boolean, Scale>();
    this.limits.set(view, known);
    const scale = known.get(clip) ?? mapScale(map, clip);
    known.set(clip, scale);
    return scale;
  }

  /** Without the strongest half percent unless someone wants the whole range: maps of pixels have a few that outshine all. */
  readonly clip = $derived.by(() => !this.explorer.page.whole);

  /** The scale of one cell: its own, or that of its row's questions of the same kind. */
  scaleOf(method: string, column: string): Scale | null {
    const view = this.cell(method, column)?.view;
    if (!view) return null;
    if (this.explorer.page.mapScale === "own") return this.ownScale(view);
    const scales = this.columns.filter((each) => kindOf(each) === kindOf(column)).flatMap((each) => {
      const current = this.cell(method, each)?.current;
      const scale = current && this.ownScale(current);
      return scale ? [scale] : [];
    });
    return sharedScale(scales) ?? this.ownScale(view);
  }

  /** The next cell of a step; those that can't be shown are stepped over. */
  neighbor(byRows: number, byColumns: number): { method: string; column: string } | null {
    const { chosen, rows, columns } = this;
    if (!chosen) return null;
    const column = columns[Math.min(columns.length - 1, Math.max(0, columns.indexOf(chosen.column) + byColumns))];
    let at = rows.findIndex((row) => row.method.name === chosen.method);
    for (let next = at + byRows; byRows !== 0 && next >= 0 && next < rows.length; next += byRows) {
      if (rows[next].method.missing) continue;
      at = next;
      break;
    }
    return { method: rows[at].method.name, column };
  }
}
