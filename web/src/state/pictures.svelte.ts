// The sheet's tiles that are pictures made by the network's own gradients: projections, and optimized images.

import type { Job } from "../api/schema";
import type { View } from "../api/view";
import type { BlockLayout } from "../paint/blocks";
import type { PatchContent, PatchSource } from "../paint/patches";
import { bytePixels, pictureLimit, picturesInSquares, signedPixels, type Picture } from "../paint/pictures";
import type { ViewRequest } from "../sources/source";
import { codeFont, screen, wordFont } from "../widgets/density.svelte";
import { BlockStore, type UnitPictures } from "./blocks";
import type { Explorer } from "./explorer.svelte";
import { projectionsRequest, readProjections } from "./projections";
import { optimizedRequest, optimizedUnits, readOptimized, UNITS_AT_ONCE } from "./synthesis";
import { nearby } from "./wall.svelte";

export interface PicturesSubject {
  readonly kind: "projections" | "optimized";
  /** Units in the order of their places. */
  readonly units: Int32Array;
  readonly blocks: BlockLayout;
}

const PAUSE = 120;
const LARGEST = 160;

type Pixels = { pixels: Uint32Array; rows: number; columns: number };

export class PicturesState {
  /** Counts what came: a reason to draw again. */
  arrived = $state(0);
  /** "kind|layer|preset" of what someone asked to be computed. */
  private asked = $state("");
  private jobName = $state("");
  private store: BlockStore<OffscreenCanvas> | null = null;
  private storeOf = "";

  /** What the sheet shows of them, and the part of it that is in view. */
  subject = $state.raw<PicturesSubject | null>(null);
  window = $state.raw({ scroll: 0, height: 0 });

  constructor(private readonly explorer: Explorer) {}

  private readonly key = $derived.by(() => {
    const { subject, explorer } = this;
    const { layer, page, study } = explorer;
    if (!subject || !layer) return "";
    const how = subject.kind === "projections" ? page.projector : page.preset;
    const cells = subject.kind === "projections" ? subject.blocks.cells : 1;
    return [subject.kind, layer.address, how, cells, study.has(layer) ? study.revision : 0].join("|");
  });

  get failure() {
    void this.arrived;
    return this.store?.failure ?? null;
  }

  /** How many units of those in view wait for a start. */
  get waiting(): number {
    void this.arrived;
    return this.store ? this.store.absent.size * this.store.size : 0;
  }

  get working(): boolean {
    void this.arrived;
    return this.store?.working ?? false;
  }

  get job(): Job | null {
    return this.explorer.jobs.get(this.jobName) ?? null;
  }

  readonly content: PatchContent | null = $derived.by(() => {
    const { subject, key } = this;
    if (!subject) return null;
    void this.explorer.theme;
    const style = getComputedStyle(document.documentElement);
    const source = (unit: number, natural: boolean): PatchSource | null => {
      const found = this.storeOf === key ? this.store?.find(unit) : null;
      if (!found) return null;
      const { pictures, row } = found;
      const picture = natural ? pictures.natural : pictures.picture;
      return picture && { picture, row, side: pictures.side, ranks: natural ? 1 : pictures.ranks, fit: pictures.soFar ? "scaled" : "exact" };
    };
    return {
      layout: subject.blocks,
      units: subject.units,
      find: (unit) => source(unit, false),
      inset: (unit) => source(unit, true),
      filled: () => subject.blocks.cells,
      silent: () => false,
      label: null,
      density: screen.density,
      font: codeFont(),
      words: wordFont(),
      colors: { void: style.getPropertyValue("--void"), ink: style.getPropertyValue("--ink"), quiet: style.getPropertyValue("--quiet") },
    };
  });

  /** Ask for the pictures in a window; call inside an effect. */
  want(): () => void {
    const { subject, key } = this;
    const { scroll, height } = this.window;
    const { layer } = this.explorer;
    if (this.storeOf !== key) {
      this.store?.stop();
      this.storeOf = key;
      this.store = subject && layer ? new BlockStore(this.loader(subject.kind), () => this.arrived++, UNITS_AT_ONCE) : null;
    }
    const { store } = this;
    const timer = setTimeout(() => store && subject && layer && store.want(nearby(subject, scroll, height), layer.shape[0]), PAUSE);
    return () => clearTimeout(timer);
  }

  /** Compute what isn't there yet, of the units in view and of those that come into view. */
  start(): void {
    const { scroll, height } = this.window;
    this.asked = this.key;
    if (this.subject) this.store?.retry(nearby(this.subject, scroll, height));
    this.arrived++;
  }

  stop(): void {
    this.asked = "";
    this.store?.stop();
  }

  close(): void {
    this.store?.stop();
    this.store = null;
    this.storeOf = "";
  }

  private loader(kind: PicturesSubject["kind"]) {
    const { explorer } = this;
    const { layer, page, study, session } = explorer;
    const key = this.key;
    const ranks = this.subject?.blocks.cells ?? 1;
    const side = Math.min(LARGEST, Math.max(48, Math.ceil((this.subject?.blocks.cell ?? 96) * screen.density)));
    return async (units: readonly number[], signal: AbortSignal, soFar: (pictures: UnitPictures<OffscreenCanvas>) => void) => {
      if (!layer || !session) return null;
      const request: ViewRequest | null =
        kind === "projections"
          ? projectionsRequest(layer, units, page.projector, study.revision, ranks)
          : optimizedRequest(layer, units, { preset: page.preset, mined: study.has(layer), images: explorer.images });
      if (!request) return null;
      const paint = (view: View, unfinished: boolean) => (kind === "projections" ? this.projected(view, units, side, ranks, unfinished) : this.optimized(view, units, side, unfinished));
      let forget = () => {};
      const begun = (job: string) => {
        this.jobName = job;
        forget = explorer.listen(job, (preview) => soFar(paint(preview, true)));
      };
      try {
        const known = await explorer.cache.known(request, signal, begun);
        if (known) return paint(known, false);
        // Projections cost a pass each; an optimized image hundreds.
        if (kind === "optimized" && this.asked !== key) return null;
        return paint(await explorer.cache.get(request, signal, begun), false);
      } finally {
        forget();
      }
    };
  }

  private projected(view: View, units: readonly number[], side: number, ranks: number, soFar: boolean): UnitPictures<OffscreenCanvas> {
    const palette = this.explorer.palette("signed");
    const rows = units.map((_, unit) => readProjections(view, unit));
    const lines = rows.map((row) => {
      const line: (Pixels | null)[] = Array.from({ length: ranks }, () => null);
      for (const { rank, projection } of row) if (rank < ranks) line[rank] = { pixels: signedPixels(projection, pictureLimit(projection), palette), rows: projection.rows, columns: projection.columns };
      return line;
    });
    const natural = rows.map((row) => [bytes(row[0]?.patch ?? null)]);
    return { picture: picturesInSquares(lines, side), natural: picturesInSquares(natural, side), units, side, ranks, soFar };
  }

  private optimized(view: View, units: readonly number[], side: number, soFar: boolean): UnitPictures<OffscreenCanvas> {
    const found = readOptimized(view);
    const named = optimizedUnits(view, found.length);
    // Without its natural patch an optimized image isn't shown.
    const of = (unit: number) => found[named.length === units.length && named[0] === units[0] ? named.indexOf(unit) : units.indexOf(unit)];
    const lines = units.map((unit) => [of(unit)?.natural.length ? bytes(of(unit).picture) : null]);
    const natural = units.map((unit) => [bytes(of(unit)?.natural[0] ?? null)]);
    return { picture: picturesInSquares(lines, side), natural: picturesInSquares(natural, side), units, side, ranks: 1, soFar };
  }
}

const bytes = (picture: Picture | null): Pixels | null => picture && { pixels: bytePixels(picture), rows: picture.rows, columns: picture.columns };
