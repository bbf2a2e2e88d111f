// Patches as pictures: fetched for the units that are in view, a few at a time, and kept within a budget of bytes.

import { isAbort, toFailure, type Failure } from "../api/failure";
import type { AtlasRequest } from "../sources/source";

/** What all the patches of one picture wall have in common. */
export interface AtlasSet extends Omit<AtlasRequest, "units"> {
  /** Which state of a study that is still growing. */
  readonly revision: number;
}

/** Closed when it is no longer kept: pictures lie outside of what the garbage collector counts. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  close(): void;
}

/** Where a unit's patches lie: row `row` of a picture of squares. */
export interface Found<Kind extends Picture = ImageBitmap> {
  readonly picture: Kind;
  readonly row: number;
  readonly side: number;
  readonly ranks: number;
  /** "exact": what is asked for. "scaled": the same patches in another size, or of a moment ago. "old": other ones. */
  readonly fit: "exact" | "scaled" | "old";
}

interface Batch<Kind extends Picture> {
  readonly set: AtlasSet;
  readonly key: string;
  readonly picture: Kind;
  readonly units: readonly number[];
}

interface Flight {
  readonly key: string;
  readonly units: ReadonlySet<number>;
  readonly abort: AbortController;
}

const LARGEST_SIDE = 512;
// WEBP holds no more, and a page should decode no larger pictures.
const LARGEST_PICTURE_SIDE = 16_383;
const LARGEST_PICTURE = 8_000_000;
// Each tile may cost the server one image to decode: small pictures come soon.
const TILES_AT_ONCE = 64;
const AT_ONCE = 3;

const keyOf = ({ layer, which, cut, ranks, side, revision }: AtlasSet): string =>
  [layer, which, cut, ranks, side, revision].join("|");

/** Sizes in steps, so that a window a pixel wider asks for nothing new: never smaller than wanted, 12 % larger at most. */
export function atlasSide(wanted: number, ranks: number): number {
  const step = wanted <= 64 ? 8 : wanted <= 128 ? 16 : wanted <= 256 ? 32 : 64;
  const side = Math.max(16, Math.ceil(wanted / step) * step);
  return Math.min(side, LARGEST_SIDE, Math.floor(LARGEST_PICTURE_SIDE / ranks));
}

/** How many units one picture holds. */
export function unitsAtOnce({ ranks, side }: Pick<AtlasSet, "ranks" | "side">): number {
  const fits = Math.min(Math.floor(LARGEST_PICTURE_SIDE / side), Math.floor(LARGEST_PICTURE / (ranks * side * side)));
  return Math.max(1, Math.min(fits, Math.floor(TILES_AT_ONCE / ranks)));
}

export class AtlasStore<Kind extends Picture = ImageBitmap> {
  failure: Failure | null = null;
  private failedKey = "";
  private batches: Batch<Kind>[] = [];
  private readonly places = new Map<string, Map<number, { batch: Batch<Kind>; row: number }>>();
  private readonly flights = new Set<Flight>();
  private queue: number[] = [];
  private set: AtlasSet | null = null;
  private bytes = 0;

  /**
   * @param load fetches one picture
   * @param changed told when there is more to draw, or a failure to show
   */
  constructor(
    private readonly load: (request: AtlasRequest, signal: AbortSignal) => Promise<Kind>,
    private readonly changed: () => void,
    private readonly budget = 128 * 2 ** 20,
  ) {}

  /** Fetch the patches of these units, the first ones first; what was wanted before and isn't any more is dropped. */
  want(set: AtlasSet | null, units: readonly number[]): void {
    this.set = set;
    const key = set ? keyOf(set) : "";
    const wanted = new Set(units);
    const coming = new Set<number>();
    for (const flight of this.flights) {
      const useful = flight.key === key && [...flight.units].some((unit) => wanted.has(unit));
      if (useful) flight.units.forEach((unit) => coming.add(unit));
      else this.drop(flight);
    }
    const here = this.places.get(key);
    this.queue = set ? units.filter((unit) => !here?.has(unit) && !coming.has(unit)) : [];
    // What failed isn't asked for again and again while someone scrolls.
    if (this.failure && key !== this.failedKey) this.forgive();
    this.pump();
  }

  /** Ask again after a failure. */
  retry(units: readonly number[]): void {
    this.forgive();
    this.want(this.set, units);
  }

  private forgive(): void {
    this.failure = null;
    this.changed();
  }

  /** What there is to draw of a unit now. */
  find(set: AtlasSet, unit: number): Found<Kind> | null {
    const exact = this.places.get(keyOf(set))?.get(unit);
    if (exact) return { picture: exact.batch.picture, row: exact.row, side: set.side, ranks: set.ranks, fit: "exact" };
    let best: Found<Kind> | null = null;
    let quality = 0;
    for (const places of this.places.values()) {
      const place = places.get(unit);
      if (!place) continue;
      const other = place.batch.set;
      if (other.layer !== set.layer) continue;
      const same = other.which === set.which && other.cut === set.cut;
      const rank = (same ? 4 : 0) + (other.ranks >= set.ranks ? 2 : 0) + (other.side >= set.side ? 1 : 0) + 1;
      if (rank < quality) continue;
      quality = rank;
      best = { picture: place.batch.picture, row: place.row, side: other.side, ranks: other.ranks, fit: same ? "scaled" : "old" };
    }
    return best;
  }

  close(): void {
    for (const flight of this.flights) this.drop(flight);
    for (const { picture } of this.batches) picture.close();
    this.batches = [];
    this.places.clear();
    this.queue = [];
    this.bytes = 0;
  }

  private drop(flight: Flight): void {
    this.flights.delete(flight);
    flight.abort.abort();
  }

  private pump(): void {
    const { set } = this;
    while (set && this.queue.length && this.flights.size < AT_ONCE && !this.failure) {
      const units = this.queue.splice(0, unitsAtOnce(set));
      const flight = { key: keyOf(set), units: new Set(units), abort: new AbortController() };
      this.flights.add(flight);
      void this.fly(flight, set, units);
    }
  }

  private async fly(flight: Flight, set: AtlasSet, units: number[]): Promise<void> {
    const { layer, which, cut, ranks, side } = set;
    try {
      const picture = await this.load({ layer, which, cut, ranks, side, units }, flight.abort.signal);
      if (this.flights.delete(flight)) this.keep({ set, key: flight.key, picture, units });
      else picture.close();
    } catch (error) {
      if (!this.flights.delete(flight) || isAbort(error)) return;
      this.failure = toFailure(error);
      this.failedKey = flight.key;
      this.queue = [];
    }
    this.changed();
    this.pump();
  }

  private keep(batch: Batch<Kind>): void {
    this.batches.push(batch);
    const places = this.places.get(batch.key) ?? new Map<number, { batch: Batch<Kind>; row: number }>();
    this.places.set(batch.key, places);
    batch.units.forEach((unit, row) => places.set(unit, { batch, row }));
    this.bytes += bytesOf(batch);
    while (this.bytes > this.budget && this.batches.length > 1) this.forget(this.batches.shift() as Batch<Kind>);
  }

  private forget(batch: Batch<Kind>): void {
    const places = this.places.get(batch.key);
    for (const unit of batch.units) if (places?.get(unit)?.batch === batch) places.delete(unit);
    if (places?.size === 0) this.places.delete(batch.key);
    this.bytes -= bytesOf(batch);
    batch.picture.close();
  }
}

const bytesOf = ({ picture }: { picture: Picture }): number => 4 * picture.width * picture.height;
