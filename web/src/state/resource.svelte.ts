// One View on the screen: what is asked for, what is shown meanwhile, how far it is, and what went wrong.

import { isAbort, toFailure, type Failure } from "../api/failure";
import type { Job } from "../api/schema";
import type { View } from "../api/view";
import type { ViewCache } from "../sources/cache";
import { viewKey, viewPath, type ViewRequest } from "../sources/source";

/** How long the person has waited: nothing is shown, a skeleton, what is being done, progress and cancel. */
export type Phase = "still" | "skeleton" | "message" | "long";

const PHASES: readonly [milliseconds: number, phase: Phase][] = [
  [100, "skeleton"],
  [1_000, "message"],
  [10_000, "long"],
];

export interface Surroundings {
  readonly cache: ViewCache;
  readonly jobs: ReadonlyMap<string, Job>;
  cancel(job: string): void;
  /** Told when the server can't be reached; the request is made again when it is back. */
  serverGone(): void;
  /** What a job has so far; null where it shows nothing yet. */
  preview(job: string, after: number, signal: AbortSignal): Promise<View | null>;
}

// Long work waits in line on the server's side too; whoever is refused because of it asks again after this long.
const BUSY_PAUSE = 1_500;

export class Resource {
  /** What is on the screen; it may be of an earlier request. */
  view = $state.raw<View | null>(null);
  /** The request that `view` answers. */
  shown = $state.raw<ViewRequest | null>(null);
  wanted = $state.raw<ViewRequest | null>(null);
  failure = $state.raw<Failure | null>(null);
  phase = $state<Phase>("still");
  cancelled = $state(false);
  /** What is there of the View that is being made. */
  preview = $state.raw<View | null>(null);
  /** It wasn't computed before, and isn't being computed: it waits for its start. */
  offered = $state(false);
  private jobName = $state("");
  private key = "";
  private abort: AbortController | null = null;
  private previewing: AbortController | null = null;
  private seen = 0;
  private timers: ReturnType<typeof setTimeout>[] = [];

  constructor(private readonly around: Surroundings) {}

  /** True while what is shown isn't what is asked for; an earlier state of the same is. */
  get stale(): boolean {
    return this.shown !== this.wanted && !(this.shown && this.wanted && viewPath(this.shown) === viewPath(this.wanted));
  }

  /** The View if it answers what is asked for now. */
  get current(): View | null {
    return this.stale ? null : this.view;
  }

  /** Asked for, and neither here nor given up. */
  get loading(): boolean {
    return this.stale && this.wanted !== null && !this.failure && !this.cancelled && !this.offered;
  }

  get job(): Job | null {
    return (this.stale && this.around.jobs.get(this.jobName)) || null;
  }

  /** Ask for a View; a cached one is there at once. `delay` waits for a pause in a run of changes. */
  load(request: ViewRequest | null, delay = 0): void {
    if (!this.want(request) || !request) return;
    this.wait(delay);
    if (delay) this.timers.push(setTimeout(() => this.fetch(request), delay));
    else this.fetch(request);
  }

  /** Show a View that was computed before, or is being computed; else offer to compute it: nothing long begins by itself. */
  offer(request: ViewRequest | null): void {
    if (!this.want(request) || !request) return;
    const abort = new AbortController();
    this.abort = abort;
    this.jobName = "";
    const joined = (job: string) => {
      if (this.abort !== abort) return;
      this.jobName = job;
      this.wait();
    };
    this.around.cache.known(request, abort.signal, joined).then(
      (view) => {
        if (this.abort !== abort) return;
        if (view) this.show(request, view);
        else this.offered = true;
      },
      (error: unknown) => {
        if (this.abort !== abort || isAbort(error)) return;
        const failure = toFailure(error);
        if (failure.serverGone) this.around.serverGone();
        const waited = this.jobName !== "";
        this.stop();
        if (failure.description.kind === "cancelled") this.cancelled = true;
        else if (failure.refused || waited) this.failure = failure;
        else this.offered = true;
      },
    );
  }

  /** Compute what was offered, or what would be in a moment: it is that which the person means. */
  start(request: ViewRequest | null = null): void {
    this.key = "";
    this.load(request ?? this.wanted);
  }

  /** True when there is more to do than to look: the request is another one, and isn't here yet. */
  private want(request: ViewRequest | null): boolean {
    const key = request ? viewKey(request) : "";
    if (key === this.key) return false;
    this.key = key;
    this.stop();
    this.failure = null;
    this.cancelled = false;
    this.offered = false;
    this.preview = null;
    this.seen = 0;
    this.wanted = request;
    if (!request) {
      this.view = null;
      this.shown = null;
      return false;
    }
    const known = this.around.cache.peek(request);
    if (known) this.show(request, known);
    return !known;
  }

  /** The server says that there is more to see of a job: its preview of this number. */
  previewed(job: string, number: number): void {
    if (!this.loading || job !== this.jobName || this.previewing || number <= this.seen) return;
    const [abort, request, after] = [new AbortController(), this.wanted, this.seen];
    this.previewing = abort;
    this.seen = number;
    this.around.preview(job, after, abort.signal).then(
      (view) => {
        if (this.previewing !== abort) return;
        this.previewing = null;
        if (view && this.wanted === request && this.loading) this.preview = view;
      },
      () => {
        if (this.previewing === abort) this.previewing = null; // The next one may come through; the end will.
      },
    );
  }

  private wait(delay = 0): void {
    for (const [after, phase] of PHASES) this.timers.push(setTimeout(() => (this.phase = phase), after + delay));
  }

  retry(): void {
    const request = this.wanted;
    this.key = "";
    this.load(request);
  }

  /** The person's own cancel: stops the work on the server too. */
  cancel(): void {
    if (this.jobName) this.around.cancel(this.jobName);
    this.stop();
    this.cancelled = true;
  }

  stop(): void {
    this.abort?.abort();
    this.abort = null;
    this.previewing?.abort();
    this.previewing = null;
    this.timers.forEach(clearTimeout);
    this.timers = [];
    this.phase = "still";
  }

  private fetch(request: ViewRequest): void {
    const abort = new AbortController();
    this.abort = abort;
    this.around.cache
      .get(request, abort.signal, (job) => (this.jobName = job))
      .then((view) => {
        if (this.abort === abort) this.show(request, view);
      })
      .catch((error: unknown) => {
        if (this.abort !== abort || isAbort(error)) return;
        const failure = toFailure(error);
        if (failure.description.kind === "busy") {
          this.timers.push(setTimeout(() => this.abort === abort && this.fetch(request), BUSY_PAUSE));
          return;
        }
        this.stop();
        if (failure.serverGone) this.around.serverGone();
        if (failure.description.kind === "cancelled") this.cancelled = true;
        else this.failure = failure;
      });
  }

  private show(request: ViewRequest, view: View): void {
    this.stop();
    this.view = view;
    this.shown = request;
    this.offered = false;
    this.preview = null;
  }
}
