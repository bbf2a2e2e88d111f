// Decoded Views, the most recently used kept, within a budget of bytes; equal requests in flight share one answer.

import type { View } from "../api/view";
import { viewKey, type Source, type ViewRequest } from "./source";

interface Flight {
  readonly promise: Promise<View>;
  readonly abort: AbortController;
  readonly job: string;
  waiting: number;
}

let jobs = 0;

/** This page, as the server tells it from other tabs. */
export const PAGE = `page-${Math.random().toString(36).slice(2, 10)}`;

/** A name no other tab uses. */
export const newJob = (): string => `${PAGE}-${++jobs}`;

export class ViewCache {
  private readonly views = new Map<string, View>();
  private readonly flights = new Map<string, Flight>();
  private size = 0;

  constructor(
    private readonly source: Pick<Source, "view"> & Partial<Pick<Source, "known">>,
    private readonly budget = 384 * 2 ** 20,
  ) {}

  /** The View if it is here; marks it as used. */
  peek(request: ViewRequest): View | undefined {
    const key = viewKey(request);
    const view = this.views.get(key);
    if (view) {
      this.views.delete(key);
      this.views.set(key, view);
    }
    return view;
  }

  /** The View, from here or from the source. The work is aborted when the last one who waits for it gives up. */
  get(request: ViewRequest, signal: AbortSignal, started?: (job: string) => void): Promise<View> {
    const known = this.peek(request);
    if (known) return Promise.resolve(known);
    const key = viewKey(request);
    const flight = this.flights.get(key) ?? this.takeOff(key, request);
    started?.(flight.job);
    flight.waiting++;
    return new Promise((resolve, reject) => {
      const giveUp = () => {
        if (--flight.waiting === 0) flight.abort.abort();
        reject(new DOMException("superseded", "AbortError"));
      };
      if (signal.aborted) return giveUp();
      signal.addEventListener("abort", giveUp, { once: true });
      flight.promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", giveUp));
    });
  }

  /**
   * The View if it was computed before, here or by the source; null where it would have to be computed. Where that is
   * under way already, `joined` is told what the job is called here, and it is waited for.
   */
  async known(request: ViewRequest, signal: AbortSignal, joined: (job: string) => void = () => {}): Promise<View | null> {
    const here = this.peek(request);
    if (here) return here;
    const job = newJob();
    const view = (await this.source.known?.(request, job, signal, () => joined(job))) ?? null;
    if (view) this.keep(viewKey(request), view);
    return view;
  }

  private takeOff(key: string, request: ViewRequest): Flight {
    const abort = new AbortController();
    const job = newJob();
    const promise = this.source
      .view(request, job, abort.signal)
      .then((view) => {
        this.keep(key, view);
        return view;
      })
      .finally(() => {
        if (this.flights.get(key) === flight) this.flights.delete(key);
      });
    promise.catch(() => undefined); // Whoever waits hears of it; nobody waiting is no error.
    const flight: Flight = { promise, abort, job, waiting: 0 };
    // An aborted flight must not be joined by the next one who asks.
    abort.signal.addEventListener("abort", () => this.flights.delete(key), { once: true });
    this.flights.set(key, flight);
    return flight;
  }

  private keep(key: string, view: View): void {
    const before = this.views.get(key);
    if (before) this.size -= before.bytes;
    this.views.delete(key);
    this.views.set(key, view);
    this.size += view.bytes;
    for (const [oldest, each] of this.views) {
      if (this.size <= this.budget || oldest === key) break;
      this.views.delete(oldest);
      this.size -= each.bytes;
    }
  }
}
