// What was mined here, and the mining under way: the page starts it, follows it, and shows each finished part of it.

import { Failure, toFailure } from "../api/failure";
import type { Job, Layer, Study } from "../api/schema";
import { newJob } from "../sources/cache";
import { t } from "../strings";
import type { Explorer } from "./explorer.svelte";
import { patchesRequest } from "./requests";

/** How many images are ranked for each unit, unless someone wants more. */
export const USUAL_RANKS = 9;

// While images rush by, what is new is asked for this often at most.
const REFRESH_PAUSE = 1_500;

export class StudyState {
  facts = $state.raw<Study | null>(null);
  failure = $state.raw<Failure | null>(null);
  /** Counts how often more of the study was finished: what is shown of it is asked for again. */
  revision = $state(1);
  starting = $state(false);
  readonly patches;
  private asked = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly explorer: Explorer) {
    this.patches = explorer.resource();
  }

  readonly layers: ReadonlySet<string> = $derived.by(() => new Set(this.facts && this.facts.done > 0 && !this.facts.refused ? this.facts.layers : []));
  /** The mining under way, as far as its events told. */
  readonly progress: Job | null = $derived.by(() => (this.facts?.job && this.explorer.jobs.get(this.facts.job)) || null);
  readonly running = $derived.by(() => Boolean(this.facts?.job) || this.starting);

  has(layer: Layer | null): boolean {
    return layer !== null && this.layers.has(layer.address);
  }

  /** Ask for the chosen layer's patches; call inside an effect. */
  load(): void {
    const { layer } = this.explorer;
    this.patches.load(layer && this.has(layer) ? patchesRequest(layer, this.revision) : null);
  }

  async refresh(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.asked = Date.now();
    try {
      this.take(await this.explorer.source.study());
    } catch (error) {
      const failure = toFailure(error);
      if (failure.serverGone) this.explorer.serverGone();
      else this.failure = failure;
    }
  }

  /** Mine these layers (null: every convolution), so many patches of each unit; a study that was begun goes on as it is. */
  async start(layers: readonly string[] | null = null, k: number | null = null): Promise<void> {
    if (this.running) return;
    this.failure = null;
    this.starting = true;
    try {
      this.take(await this.explorer.source.mine(layers, k, newJob()));
    } catch (error) {
      this.failure = toFailure(error);
    } finally {
      this.starting = false;
    }
  }

  cancel(): void {
    if (this.facts?.job) this.explorer.cancel(this.facts.job);
  }

  /** A part of the images is through, whoever mines: here or in a shell. */
  grown(): void {
    if (!this.timer) this.later(Math.max(0, this.asked + REFRESH_PAUSE - Date.now()));
  }

  /** Every event of every job. */
  heard(job: Job): void {
    if (job.id !== this.facts?.job) return;
    if (job.state === "done") this.explorer.say(t("mining.done", { count: job.total }));
    if (job.state === "cancelled") this.explorer.say(t("mining.cancelled"));
    // The event comes a moment before the server has put the job away.
    if (job.state === "done" || job.state === "failed" || job.state === "cancelled") this.later(50);
  }

  private later(milliseconds: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.refresh(), milliseconds);
  }

  private take(facts: Study): void {
    const before = this.facts;
    this.facts = facts;
    if (before && (before.done !== facts.done || before.images !== facts.images || before.layers.length !== facts.layers.length)) this.revision++;
    // The job may take a moment to end after it said so.
    if (facts.job && !this.explorer.jobs.has(facts.job) && before?.job === facts.job) this.later(REFRESH_PAUSE);
    if (before?.job && !facts.job && facts.failure) this.failure = new Failure(facts.failure);
    if (facts.job && before?.job !== facts.job) this.failure = null;
  }
}
