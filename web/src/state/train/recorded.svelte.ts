// Recorded moments of a run: kernels and maps of some layers, put together under the names that live frames have.

import { isAbort, toFailure, type Failure } from "../../api/failure";
import type { RecordedName } from "../../api/training";
import type { NamedArray, View, ViewMeta } from "../../api/view";
import { INPUT } from "./pictures";
import { stepBefore, union } from "./steps";

export interface RecordedSource {
  steps(run: string, name: string, layer: string, signal?: AbortSignal): Promise<number[]>;
  recorded(run: string, name: string, layer: string, step: number, signal?: AbortSignal): Promise<View>;
}

export const KINDS = ["kernels", "maps"] as const;
export type RecordedKind = (typeof KINDS)[number] | "images";
/** The reference pictures, recorded once for the whole run. */
const IMAGES = "images";

const indexKey = (kind: string, layer: string): string => `${kind}:${layer}`;

/** Which steps of a run were recorded, by kind and layer. Layers that are recorded together share one list. */
export class RecordedSteps {
  /** Steps at which anything that is painted was recorded. */
  all = $state.raw<readonly number[]>([]);
  private lists = $state.raw<ReadonlyMap<string, readonly number[]>>(new Map());
  /** How many kinds of layers are recorded at all. */
  readonly count = $derived.by(() => this.lists.size);
  private readonly groups = new Map<string, { readonly said: string; readonly steps: readonly number[] }>();
  private run = "";

  constructor(private readonly source: RecordedSource) {}

  of(kind: RecordedKind, layer: string): readonly number[] {
    return this.lists.get(indexKey(kind, layer)) ?? [];
  }

  /** Ask for what the run says is new. */
  async take(run: string, recorded: readonly RecordedName[], signal?: AbortSignal): Promise<void> {
    if (run !== this.run) this.clear(run);
    const lists = new Map<string, readonly number[]>();
    const pictures = recorded.find(({ name }) => name === IMAGES);
    if (pictures) lists.set(indexKey(IMAGES, INPUT), [pictures.first]);
    for (const kind of KINDS) {
      const fetched = new Map<string, readonly number[]>();
      for (const { name, layer, count, first, last } of recorded) {
        if (name !== kind) continue;
        const said = `${count} ${first} ${last}`;
        let steps = fetched.get(said);
        if (!steps) {
          const known = this.groups.get(indexKey(kind, layer));
          steps = known?.said === said ? known.steps : await this.source.steps(run, kind, layer, signal);
          if (run !== this.run) return;
          fetched.set(said, steps);
          this.groups.set(indexKey(kind, layer), { said, steps });
        }
        lists.set(indexKey(kind, layer), steps);
      }
    }
    const same = lists.size === this.lists.size && [...lists].every(([key, steps]) => this.lists.get(key) === steps || String(this.lists.get(key)) === String(steps));
    if (same) return;
    this.lists = lists;
    const all = union(new Set([...lists].filter(([key]) => !key.startsWith(IMAGES)).map(([, steps]) => steps)));
    if (all.length !== this.all.length || all.at(-1) !== this.all.at(-1)) this.all = all;
  }

  clear(run = ""): void {
    this.run = run;
    this.groups.clear();
    this.lists = new Map();
    this.all = [];
  }
}

export interface MomentRequest {
  readonly run: string;
  readonly step: number;
  readonly layers: readonly string[];
}

const BUDGET = 192 * 2 ** 20;

/** Views by run, kind, layer and step, the most recently used kept. */
export class RecordedCache {
  private readonly kept = new Map<string, View>();
  private size = 0;

  constructor(private readonly source: RecordedSource) {}

  async get(run: string, kind: RecordedKind, layer: string, step: number, signal?: AbortSignal): Promise<View> {
    const key = `${run}@${step} ${kind}:${layer}`;
    const known = this.kept.get(key);
    if (known) {
      this.kept.delete(key);
      this.kept.set(key, known);
      return known;
    }
    const view = await this.source.recorded(run, kind, kind === IMAGES ? "" : layer, step, signal);
    this.kept.set(key, view);
    this.size += view.bytes;
    for (const [oldest, each] of this.kept) {
      if (this.size <= BUDGET || oldest === key) break;
      this.kept.delete(oldest);
      this.size -= each.bytes;
    }
    return view;
  }
}

/** Where a recorded View's arrays go in a frame. */
const NAMES: Readonly<Record<RecordedKind, Readonly<Record<string, string>>>> = {
  kernels: { kernel: "kernel", gradient: "kernel_gradient", displacement: "displacement", channel: "channel" },
  maps: { map: "map", gradient: "map_gradient" },
  images: {},
};

/** Pictures [image, row, column, channel] as the maps of the input. */
function inputMaps(view: View): NamedArray | null {
  const array = [...view.arrays.values()].find(({ axes }) => axes.includes("channel") && axes.includes("row"));
  if (!array || array.axes.join() !== "image,row,column,channel") return null;
  const [images, rows, columns, channels] = array.shape;
  const size = rows * columns;
  const data = new Float32Array(array.data.length);
  for (let image = 0; image < images; image++) {
    for (let cell = 0; cell < size; cell++) {
      for (let channel = 0; channel < channels; channel++) {
        data[(image * channels + channel) * size + cell] = array.data[(image * size + cell) * channels + channel];
      }
    }
  }
  return { data, shape: [images, channels, rows, columns], axes: ["image", "unit", "row", "column"] };
}

/** Recorded Views of several layers as one frame. */
export function joined(step: number, views: Iterable<{ kind: RecordedKind; layer: string; view: View }>): View {
  const arrays = new Map<string, NamedArray>();
  const meta: ViewMeta = { caption: "", warnings: [], ranges: {}, step, layers: [] };
  const layouts: Record<string, string> = {};
  meta.layouts = layouts;
  let bytes = 0;
  for (const { kind, layer, view } of views) {
    bytes += view.bytes;
    const pictures = kind === IMAGES ? inputMaps(view) : null;
    if (pictures) arrays.set(`${INPUT}.map`, pictures);
    for (const [from, to] of Object.entries(NAMES[kind])) {
      const array = view.arrays.get(from);
      if (array) arrays.set(`${layer}.${to}`, array);
      if (view.meta.ranges[from]) meta.ranges[`${layer}.${to}`] = view.meta.ranges[from];
    }
    meta.warnings.push(...view.meta.warnings);
    if (kind === "maps") {
      meta.labels ??= view.meta.labels;
      meta.images ??= view.meta.images;
    } else if (kind === "kernels") {
      meta.since ??= view.meta.since;
      layouts[layer] = String(view.meta.layout ?? "slices");
    } else if (pictures) meta.labels ??= view.meta.labels;
  }
  return { kind: "training_frame", arrays, meta, recipe: null, bytes };
}

export class RecordedMoment {
  /** What is on the screen; while another moment comes, still the last one. */
  view = $state.raw<View | null>(null);
  failure = $state.raw<Failure | null>(null);
  loading = $state(false);
  private key = "";
  private run = "";
  private abort: AbortController | null = null;

  constructor(
    private readonly cache: RecordedCache,
    readonly steps: RecordedSteps,
  ) {}

  /** Show a moment; the same again changes nothing. */
  show(request: MomentRequest | null): void {
    const key = request ? `${request.run}@${request.step}:${request.layers.join(",")}:${this.steps.count}` : "";
    if (key === this.key) return;
    this.key = key;
    this.abort?.abort();
    this.failure = null;
    this.loading = false;
    // What was of another run must not stand in for this one.
    if (request?.run !== this.run) this.view = null;
    this.run = request?.run ?? "";
    if (!request || !this.steps.all.length) return;
    const abort = new AbortController();
    this.abort = abort;
    this.loading = true;
    this.get(request, abort.signal).then(
      (view) => {
        if (this.abort !== abort) return;
        this.view = view;
        this.loading = false;
      },
      (error: unknown) => {
        if (this.abort !== abort || isAbort(error)) return;
        this.loading = false;
        this.failure = toFailure(error);
      },
    );
  }

  async get({ run, step, layers }: MomentRequest, signal?: AbortSignal): Promise<View> {
    const wanted = layers.flatMap((layer) =>
      (layer === INPUT ? ([IMAGES] as const) : KINDS).flatMap((kind) => {
        const at = stepBefore(this.steps.of(kind, layer), step);
        return at === null ? [] : [{ kind, layer, at }];
      }),
    );
    const views = await Promise.all(wanted.map(async ({ kind, layer, at }) => ({ kind, layer, view: await this.cache.get(run, kind, layer, at, signal) })));
    return joined(step, views);
  }

  retry(): void {
    this.key = "";
  }
}
