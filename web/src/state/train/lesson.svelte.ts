// The backward pass of one image, one layer at a time: which image, which layer, which number of it.

import { untrack } from "svelte";

import { isAbort, toFailure, type Failure } from "../../api/failure";
import type { NamedArray, View } from "../../api/view";
import type { Training } from "./training.svelte";

export interface LessonLayer {
  readonly name: string;
  readonly kind: string;
  readonly strongest: number[];
  readonly strongest_weight: number[] | null;
}

/** The number whose gradient is taken apart: (unit, row, column) of the input, or an index of the weight. */
export interface Place {
  readonly of: "input" | "weight";
  readonly at: readonly number[];
}

const PAUSE = 80;
const TRIED = 120;

export class LessonState {
  view = $state.raw<View | null>(null);
  loss = $state.raw<View | null>(null);
  failure = $state.raw<Failure | null>(null);
  /** How many layers from the loss: 0 is the loss itself. */
  at = $state(0);
  place = $state.raw<Place | null>(null);
  loading = $state(false);
  /** Asked again for the same image: training went on. */
  asked = $state(0);

  /** The last number that was taken apart, and which one it was. */
  private taken = $state.raw<{ readonly view: View; readonly layer: string; readonly number: string } | null>(null);

  constructor(private readonly training: Training) {}

  readonly layers: readonly LessonLayer[] = $derived.by(() => (this.view?.meta.layers as LessonLayer[] | undefined) ?? []);
  readonly layer: LessonLayer | null = $derived.by(() => (this.at > 0 ? (this.layers[this.at - 1] ?? null) : null));
  readonly step = $derived.by(() => (this.view ? Number(this.view.meta.step) : null));
  readonly label = $derived.by(() => (this.view ? Number(this.view.meta.label) : null));
  readonly shown: Place | null = $derived.by(() => {
    const { layer, place } = this;
    if (!layer) return null;
    return place ?? { of: "input", at: layer.strongest };
  });

  /** The number to be taken apart, in words of its own. */
  private readonly number: string = $derived.by(() => {
    const { layer, shown, view } = this;
    return layer && shown && view ? [layer.name, shown.of, shown.at.join(","), String(view.meta.pass)].join("|") : "";
  });
  /** Its parts. Those of another layer would stand under the names of this one, so they are none. */
  readonly terms: View | null = $derived.by(() => (this.taken && this.taken.layer === this.layer?.name ? this.taken.view : null));
  /** The parts that are here are those of a number chosen before. */
  readonly behind = $derived.by(() => this.taken?.number !== this.number);

  array(part: "given" | "result" | "upstream" | "gradient"): NamedArray | null {
    return (this.layer && this.view?.arrays.get(`${this.layer.name}.${part}`)) ?? null;
  }

  /** Ask for the pass of an image; call inside an effect. */
  load(index: number | null): (() => void) | undefined {
    const { id, live } = this.training;
    void this.asked;
    if (!live || index === null) {
      this.view = null;
      this.loss = null;
      return undefined;
    }
    const abort = new AbortController();
    this.loading = true;
    this.training.source
      .backpropagation(id, index, "layers", abort.signal)
      .then(async (view) => {
        const loss = await this.training.source.backpropagation(id, index, "loss", abort.signal);
        if (abort.signal.aborted) return;
        this.failure = null;
        this.view = view;
        this.loss = loss;
        this.loading = false;
        untrack(() => (this.at = Math.min(this.at, this.layers.length)));
      })
      .catch((error: unknown) => {
        if (abort.signal.aborted || isAbort(error)) return;
        this.failure = toFailure(error);
        this.loading = false;
      });
    return () => abort.abort();
  }

  /** Take the chosen number apart; call inside an effect. */
  takeApart(): (() => void) | undefined {
    const { layer, shown, view, number } = this;
    const { id } = this.training;
    if (!layer || !shown || !view) {
      this.taken = null;
      return undefined;
    }
    const abort = new AbortController();
    const timer = setTimeout(() => {
      this.training.source.terms(id, Number(view.meta.pass), { layer: layer.name, of: shown.of, place: shown.at }, abort.signal).then(
        (terms) => {
          if (abort.signal.aborted) return;
          this.taken = { view: terms, layer: layer.name, number };
          this.failure = null;
        },
        (error: unknown) => {
          if (abort.signal.aborted || isAbort(error)) return;
          const failure = toFailure(error);
          // Only the last passes are kept: begin again with the same image.
          if (failure.status === 404) untrack(() => this.asked++);
          else this.failure = failure;
        },
      );
    }, PAUSE);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }

  /** An image that the network isn't sure of: of a confident answer every gradient is nearly zero. */
  async uncertain(): Promise<number | null> {
    const { id, detail, source } = this.training;
    const count = detail?.held_out_images ?? 0;
    if (!count) return null;
    const chosen = new Set<number>();
    while (chosen.size < Math.min(TRIED, count)) chosen.add(Math.floor(Math.random() * count));
    try {
      const { images } = await source.test(id, [...chosen]);
      // Wrong ones first, then those whose first two classes are nearest to each other.
      const doubt = (image: (typeof images)[number]) => Number(!image.correct) - ((image.top[0]?.probability ?? 1) - (image.top[1]?.probability ?? 0));
      const best = images.reduce((most, each) => (doubt(each) > doubt(most) ? each : most), images[0]);
      return best?.index ?? null;
    } catch (error) {
      this.failure = toFailure(error);
      return null;
    }
  }

  /** Toward the image (1) or toward the loss (-1). */
  move(by: 1 | -1): void {
    this.go(this.at + by);
  }

  go(at: number): void {
    const inside = Math.min(this.layers.length, Math.max(0, at));
    if (inside === this.at) return;
    this.at = inside;
    this.place = null;
  }

  choose(place: Place): void {
    this.place = place;
  }

  /** Move inside the unit whose number is taken apart. */
  shift(rows: number, columns: number): void {
    const { shown } = this;
    const array = this.array("gradient");
    if (!shown || shown.of !== "input" || !array) return;
    const [units, height, width] = array.shape;
    let [unit, row, column] = shown.at;
    if (height * width === 1) unit = Math.min(units - 1, Math.max(0, unit + rows + columns));
    row = Math.min(height - 1, Math.max(0, row + (height * width === 1 ? 0 : rows)));
    column = Math.min(width - 1, Math.max(0, column + (height * width === 1 ? 0 : columns)));
    this.place = { of: "input", at: [unit, row, column] };
  }
}
