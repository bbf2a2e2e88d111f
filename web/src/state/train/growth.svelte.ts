// How the chosen layer grew: a few recorded steps of it, from the first to the last.

import { untrack } from "svelte";

import { isAbort, toFailure, type Failure } from "../../api/failure";
import type { View } from "../../api/view";
import { KINDS } from "./recorded.svelte";
import { growthSteps, union } from "./steps";
import type { Training } from "./training.svelte";

const COUNT = 12;

export interface GrownMoment {
  readonly step: number;
  readonly view: View | null;
}

export class GrowthState {
  moments = $state.raw<readonly GrownMoment[]>([]);
  failure = $state.raw<Failure | null>(null);
  private key = "";
  private abort: AbortController | null = null;

  constructor(private readonly training: Training) {}

  readonly steps: readonly number[] = $derived.by(() => this.moments.map((moment) => moment.step));
  /** The layer as recording began. */
  readonly first: View | null = $derived.by(() => this.moments[0]?.view ?? null);

  /** Ask for what the strip shows; call inside an effect. */
  load(wanted: boolean): void {
    const { layer, id, recordedSteps } = this.training;
    const name = layer?.name ?? "";
    const all = layer ? union([recordedSteps.of("kernels", name), recordedSteps.of("maps", name)]) : [];
    const steps = wanted ? growthSteps(all, COUNT) : [];
    // What was fetched before anything of a kind was recorded lacks that kind.
    const kinds = KINDS.filter((kind) => recordedSteps.of(kind, name).length).join("+");
    untrack(() => this.ask(id, name, `${id} ${name} ${kinds} `, steps));
  }

  private ask(id: string, name: string, what: string, steps: readonly number[]): void {
    const key = `${what}${steps.join(",")}`;
    if (key === this.key) return;
    const same = this.key.startsWith(what);
    this.key = key;
    this.abort?.abort();
    this.failure = null;
    const known = new Map(same ? this.moments.map((moment) => [moment.step, moment.view]) : []);
    this.moments = steps.map((step) => ({ step, view: known.get(step) ?? null }));
    const abort = new AbortController();
    this.abort = abort;
    const all = this.moments.map(async ({ step, view }) => ({ step, view: view ?? (await this.training.recorded.get({ run: id, step, layers: [name] }, abort.signal)) }));
    // All at once, so that the strip is painted once.
    Promise.all(all).then(
      (moments) => {
        if (this.abort === abort) this.moments = moments;
      },
      (error: unknown) => {
        if (this.abort === abort && !isAbort(error)) this.failure = toFailure(error);
      },
    );
  }
}
