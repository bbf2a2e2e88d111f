// Frames are pulled: the next is asked for when the last one is painted, so a slow page never lags behind a fast run, and
// a hidden one asks for nothing.

import { isAbort, toFailure, type Failure } from "../../api/failure";
import type { View } from "../../api/view";

export interface FrameSource {
  /** The newest frame but the one numbered `after`; null when there is none within a while. */
  frame(run: string, after: number, layers: readonly string[], images: number, signal: AbortSignal): Promise<View | null>;
}

const RETRY = 2_000;
const WINDOW = 24;

export class FrameFeed {
  frame = $state.raw<View | null>(null);
  failure = $state.raw<Failure | null>(null);
  /** Frames per second that this page paints, over the last few. */
  rate = $state<number | null>(null);
  private abort: AbortController | null = null;
  private run = "";
  private wanted: readonly string[] = [];
  private images = 1;
  private stamps: number[] = [];
  private asked: AbortController | null = null;
  /** The layers that the frame on the screen was asked for. */
  private held: readonly string[] = [];
  private heldImages = 0;

  constructor(private readonly source: FrameSource) {}

  /** Follow a run, showing these layers; the same again changes nothing. "" stops. */
  follow(run: string, layers: readonly string[], images = 1): void {
    const missing = images > this.images || layers.some((layer) => !this.wanted.includes(layer));
    this.wanted = layers;
    this.images = images;
    if (run === this.run) {
      // While nothing moves, what has just come into view must not wait for the next step.
      if (missing && this.lacks()) this.asked?.abort();
      return;
    }
    this.stop();
    this.run = run;
    this.frame = null;
    if (!run) return;
    this.abort = new AbortController();
    void this.pull(run, this.abort.signal);
  }

  stop(): void {
    this.abort?.abort();
    this.asked?.abort();
    this.abort = null;
    this.run = "";
    this.stamps = [];
    this.rate = null;
  }

  /** Ask again from the beginning: the run was reset. */
  restart(): void {
    const { run, wanted, images } = this;
    this.stop();
    this.follow(run, wanted, images);
  }

  private lacks(): boolean {
    return this.frame !== null && (this.images > this.heldImages || this.wanted.some((layer) => !this.held.includes(layer)));
  }

  private async pull(run: string, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await visible(signal);
      const number = this.frame && !this.lacks() ? Number(this.frame.meta.frame) : 0;
      const asked = new AbortController();
      this.asked = asked;
      const { wanted, images } = this;
      try {
        const found = await this.source.frame(run, number, wanted, images, asked.signal);
        if (signal.aborted) return;
        this.failure = null;
        if (found) {
          // Set just before the browser paints, so that one frame of the run is one of the screen.
          await nextPaint();
          if (signal.aborted) return;
          this.held = wanted;
          this.heldImages = images;
          this.frame = found;
          this.count();
        } else this.rate = null;
      } catch (error) {
        if (signal.aborted) return;
        if (isAbort(error) || asked.signal.aborted) continue;
        this.failure = toFailure(error);
        await sleep(RETRY, signal);
      }
    }
  }

  private count(): void {
    this.stamps.push(performance.now());
    if (this.stamps.length > WINDOW) this.stamps.shift();
    const [first, last] = [this.stamps[0], this.stamps[this.stamps.length - 1]];
    this.rate = this.stamps.length > 2 && last > first ? ((this.stamps.length - 1) * 1_000) / (last - first) : null;
  }
}

/** Resolves once the page can be seen. */
function visible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look, { once: true });
  });
}

const nextPaint = (): Promise<void> => new Promise((resolve) => requestAnimationFrame(() => resolve()));

function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
