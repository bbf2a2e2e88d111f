// A race of optimizers: who takes part, how far it is, and what came out.

import { isAbort, toFailure, type Failure } from "../../api/failure";
import type { Offer, Race, Settings } from "../../api/training";
import type { TrainingSource } from "../../sources/training";
import { readCurves, type Series } from "./series";

const POLL = 700;
const POINTS = 300;

export interface Entrant {
  readonly id: number;
  name: string;
  optimizer: string;
  learning_rate: number;
  momentum: number;
  nesterov: boolean;
  on: boolean;
}

/** The optimizers as they are usually compared: plain, with momentum, looking ahead, and those that adapt. */
export function usualEntrants(offer: Offer): Entrant[] {
  const found: Entrant[] = [];
  const add = (name: string, optimizer: string, rate: number, momentum: number, nesterov: boolean, on: boolean) =>
    found.push({ id: found.length, name, optimizer, learning_rate: rate, momentum, nesterov, on });
  for (const { name, title, learning_rate: rate } of offer.optimizers) {
    if (name === "sgd") {
      add("SGD", name, rate, 0, false, true);
      add("SGD, momentum 0.9", name, rate, 0.9, false, true);
      add("Nesterov", name, rate, 0.9, true, false);
    } else add(title, name, rate, 0.9, false, name !== "rmsprop" && name !== "adamw");
  }
  return found;
}

/** What an entrant changes of the settings that all share; what its optimizer has no use for isn't said. */
export function changesOf(entrant: Entrant, offer: Offer): Settings {
  const uses = offer.optimizers.find((each) => each.name === entrant.optimizer)?.uses ?? [];
  return {
    optimizer: entrant.optimizer,
    learning_rate: entrant.learning_rate,
    ...(uses.includes("momentum") ? { momentum: entrant.momentum } : {}),
    ...(uses.includes("nesterov") && entrant.nesterov ? { nesterov: true } : {}),
  };
}

export class RaceState {
  race = $state.raw<Race | null>(null);
  failure = $state.raw<Failure | null>(null);
  busy = $state(false);
  /** Counts what was done to the race from here. */
  private done = 0;

  constructor(private readonly source: TrainingSource) {}

  readonly curves: readonly { name: string; failed: string; settings: Settings; curves: Map<string, Series> }[] = $derived.by(() =>
    (this.race?.racers ?? []).map((racer) => ({ name: racer.name, failed: racer.failed, settings: racer.settings, curves: readCurves(racer.curves) })),
  );
  readonly running = $derived.by(() => this.race?.state === "running");

  /** Follow the race as long as it is looked at; call inside an effect. */
  follow(): () => void {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      try {
        const { done } = this;
        const race = document.hidden ? null : await this.source.race(POINTS, abort.signal);
        // An answer that was on its way while something was done here may tell of the moment before that.
        if (race && done === this.done) this.race = race;
      } catch (error) {
        if (abort.signal.aborted || isAbort(error)) return;
        this.failure = toFailure(error);
      }
      if (!abort.signal.aborted) timer = setTimeout(() => void ask(), POLL);
    };
    void ask();
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }

  async does(work: () => Promise<Race | void>): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    this.failure = null;
    try {
      const race = await work();
      this.done++;
      if (race) this.race = race;
    } catch (error) {
      this.failure = toFailure(error);
    } finally {
      this.busy = false;
    }
  }
}
