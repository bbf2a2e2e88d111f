// Pictures that are made for many units of a layer at once: fixed blocks of units, so that the same block is always the
// same request, fetched in the order in which they are looked at.

import { isAbort, toFailure, type Failure } from "../api/failure";

/** What a block of units shows: units in rows, ranks in columns, each square `side` pixels; and what is natural beside it. */
export interface UnitPictures<Kind> {
  readonly picture: Kind;
  /** A natural patch of each unit, one column; null where the picture itself is natural. */
  readonly natural: Kind | null;
  readonly units: readonly number[];
  readonly side: number;
  readonly ranks: number;
  /** It is still being made. */
  readonly soFar: boolean;
}

/** Fetch a block; null where it would have to be computed, and nobody asked for that. */
export type LoadBlock<Kind> = (units: readonly number[], signal: AbortSignal, soFar: (pictures: UnitPictures<Kind>) => void) => Promise<UnitPictures<Kind> | null>;

const KEPT = 48;

/** The blocks that some units lie in, each once, in the order of the units. */
export function blocksOf(units: ArrayLike<number>, size: number): number[] {
  const found = new Set<number>();
  for (let index = 0; index < units.length; index++) found.add(Math.floor(units[index] / size));
  return [...found];
}

export class BlockStore<Kind> {
  failure: Failure | null = null;
  /** Blocks that wait for their start. */
  readonly absent = new Set<number>();
  private readonly blocks = new Map<number, UnitPictures<Kind>>();
  private queue: number[] = [];
  private flight: { block: number; abort: AbortController } | null = null;
  private count = 0;

  constructor(
    private readonly load: LoadBlock<Kind>,
    private readonly changed: () => void,
    readonly size = 16,
  ) {}

  get working(): boolean {
    return this.flight !== null;
  }

  /** Fetch the blocks of these units, of a layer of `count`, the first ones first; what isn't wanted any more is dropped. */
  want(units: ArrayLike<number>, count: number): void {
    this.count = count;
    const wanted = blocksOf(units, this.size);
    if (this.flight && !wanted.includes(this.flight.block)) this.drop();
    this.queue = wanted.filter((block) => block !== this.flight?.block && !this.absent.has(block) && (this.blocks.get(block)?.soFar ?? true));
    this.pump();
  }

  /** Ask again: after a failure, or because someone said that it is to be computed. */
  retry(units: ArrayLike<number>): void {
    this.failure = null;
    this.absent.clear();
    this.want(units, this.count);
  }

  find(unit: number): { pictures: UnitPictures<Kind>; row: number } | null {
    const block = Math.floor(unit / this.size);
    const pictures = this.blocks.get(block);
    const row = pictures ? pictures.units.indexOf(unit) : -1;
    return pictures && row >= 0 ? { pictures, row } : null;
  }

  stop(): void {
    this.drop();
    this.queue = [];
    this.changed();
  }

  private drop(): void {
    const { flight } = this;
    this.flight = null;
    if (!flight) return;
    flight.abort.abort();
    if (this.blocks.get(flight.block)?.soFar) this.blocks.delete(flight.block);
  }

  private pump(): void {
    const block = this.queue[0];
    if (this.flight || block === undefined || this.failure) return;
    this.queue.shift();
    const flight = { block, abort: new AbortController() };
    this.flight = flight;
    void this.fly(flight);
  }

  private async fly(flight: { block: number; abort: AbortController }): Promise<void> {
    const { block, abort } = flight;
    const units = Array.from({ length: Math.min(this.size, this.count - block * this.size) }, (_, index) => block * this.size + index);
    try {
      const made = await this.load(units, abort.signal, (soFar) => {
        if (this.flight === flight) this.keep(block, soFar);
      });
      if (this.flight !== flight) return;
      if (made) this.keep(block, made);
      else this.absent.add(block);
    } catch (error) {
      if (this.flight !== flight) return;
      if (!isAbort(error)) this.failure = toFailure(error);
      this.queue = [];
    }
    this.flight = null;
    this.changed();
    this.pump();
  }

  private keep(block: number, pictures: UnitPictures<Kind>): void {
    this.blocks.delete(block);
    this.blocks.set(block, pictures);
    for (const oldest of this.blocks.keys()) {
      if (this.blocks.size <= KEPT) break;
      this.blocks.delete(oldest);
    }
    this.changed();
  }
}
