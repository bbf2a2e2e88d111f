// A wall of patches: which pictures it needs, and what there is to paint of it. Used by the sheet and by the gallery.

import type { View } from "../api/view";
import { blockRows, type BlockLayout } from "../paint/blocks";
import type { PatchContent } from "../paint/patches";
import { codeFont, screen, wordFont } from "../widgets/density.svelte";
import { atlasSide, AtlasStore, type AtlasSet } from "./atlases";
import type { Explorer } from "./explorer.svelte";
import { filledRanks } from "./patches";

/** What a wall is of; null while there is nothing to show. */
export interface WallSubject {
  /** Of the kind "top_patches", of a whole layer. */
  readonly view: View;
  readonly layer: string;
  readonly revision: number;
  /** Units in the order of their places. */
  readonly units: Int32Array;
  readonly blocks: BlockLayout;
  readonly label: PatchContent["label"];
}

// While someone scrolls or drags a slider, what flies past isn't asked for.
const PAUSE = 60;

export class PatchWall {
  /** Counts the pictures that came: a reason to draw again. */
  arrived = $state(0);
  readonly atlases: AtlasStore;

  /** @param of read again whenever what it reads changes */
  constructor(
    private readonly explorer: Explorer,
    private readonly of: () => WallSubject | null,
  ) {
    this.atlases = new AtlasStore((request, signal) => explorer.source.atlas(request, signal), () => this.arrived++);
  }

  private readonly subject = $derived.by(() => this.of());
  private readonly set: AtlasSet | null = $derived.by(() => {
    const { subject } = this;
    if (!subject) return null;
    const { which, cut } = this.explorer.page;
    const { cells, cell } = subject.blocks;
    return { layer: subject.layer, which, cut, ranks: cells, side: atlasSide(cell * screen.density, cells), revision: subject.revision };
  });

  readonly content: PatchContent | null = $derived.by(() => {
    const { subject, set } = this;
    if (!subject || !set) return null;
    const { view, units, blocks, label } = subject;
    const filled = filledRanks(view, set.which);
    const [low, high] = [view.arrays.get("minimum")?.data, view.arrays.get("maximum")?.data];
    const style = getComputedStyle(document.documentElement);
    void this.explorer.theme;
    return {
      layout: blocks,
      units,
      find: (unit) => this.atlases.find(set, unit),
      filled: (unit) => filled[unit] ?? 0,
      silent: (unit) => low !== undefined && high !== undefined && low[unit] === high[unit],
      label,
      density: screen.density,
      font: codeFont(),
      words: wordFont(),
      colors: { void: style.getPropertyValue("--void"), ink: style.getPropertyValue("--ink"), quiet: style.getPropertyValue("--quiet") },
    };
  });

  /** Ask for the pictures in a window, and a little ahead; call inside an effect. */
  want(scroll: number, height: number): () => void {
    const { subject, set } = this;
    const wanted = subject ? nearby(subject, scroll, height) : [];
    const timer = setTimeout(() => this.atlases.want(set, wanted), PAUSE);
    return () => clearTimeout(timer);
  }

  /** Ask again for what failed. */
  retry(scroll: number, height: number): void {
    if (this.subject) this.atlases.retry(nearby(this.subject, scroll, height));
  }

  close(): void {
    this.atlases.close();
  }
}

/** The units in view from top to bottom, then half a window below, then half a window above. */
export function nearby({ units, blocks }: Pick<WallSubject, "units" | "blocks">, scroll: number, height: number): number[] {
  const [first, end] = blockRows(blocks, scroll, height);
  const ahead = Math.ceil((end - first) / 2);
  const from = first * blocks.columns;
  return [
    ...units.subarray(from, (end + ahead) * blocks.columns),
    ...units.subarray(Math.max(0, first - ahead) * blocks.columns, from),
  ];
}
