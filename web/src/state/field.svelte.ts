// The part of the image that the chosen neuron sees: computed here where the layer table says it, else asked for.

import { isAbort } from "../api/failure";
import type { Layer } from "../api/schema";
import type { Source } from "../sources/source";
import { formatAddress, type Position } from "./address";
import { seenBox, type Box } from "./receptive";

const PAUSE = 90;
const KEPT = 4_000;

/** A box, and what is to be said about it: "" where it is exact and there is nothing to say. */
export interface SeenField extends Box {
  readonly reason: string;
}

export class FieldState {
  /** What is drawn; of the last neuron while `stale`. */
  shown = $state.raw<SeenField | null>(null);
  stale = $state(false);
  private readonly known = new Map<string, SeenField>();
  private wanted = "";
  private shownFor = "";
  private timer: ReturnType<typeof setTimeout> | undefined;
  private abort: AbortController | null = null;

  constructor(private readonly source: Pick<Source, "receptiveField">) {}

  /** Show what a neuron sees; asks the server after a pause, and drops a question that is no longer wanted. */
  look(layer: Layer | null, channel: number | null, position: Position | null, imageSize: readonly [number, number]): void {
    const key = layer && channel !== null && position ? formatAddress({ layer: layer.address, channel, position }) : "";
    if (key === this.wanted) return;
    this.wanted = key;
    this.stop();
    const local = layer && position && key ? seenBox(layer, position, imageSize) : null;
    const found = local ? { ...local, reason: "" } : this.known.get(key);
    if (found || !key) return this.show(key, found ?? null);
    const unit = key.replace(/:[^:]*$/, "");
    // Another unit's field would be a wrong one; the same unit's field at the last position is only late.
    if (!this.shownFor.startsWith(`${unit}:`)) this.shown = null;
    this.stale = true;
    this.timer = setTimeout(() => void this.ask(key), PAUSE);
  }

  private async ask(key: string): Promise<void> {
    const abort = new AbortController();
    this.abort = abort;
    try {
      const { row, column, rows, columns, reason } = await this.source.receptiveField(key, abort.signal);
      const field = { row, column, rows, columns, reason };
      this.known.set(key, field);
      for (const oldest of this.known.keys()) {
        if (this.known.size <= KEPT) break;
        this.known.delete(oldest);
      }
      if (this.wanted === key) this.show(key, field);
    } catch (error) {
      if (isAbort(error) || this.wanted !== key) return;
      this.show(key, null); // No box is better than a wrong one; the map itself says what else went wrong.
    }
  }

  stop(): void {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.abort = null;
  }

  private show(key: string, field: SeenField | null): void {
    this.shown = field;
    this.shownFor = key;
    this.stale = false;
  }
}
