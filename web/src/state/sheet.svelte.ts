// The contact sheet's state: which View, its tiles, their order, and the scale of each.

import { arrayOf, axisSize, type View } from "../api/view";
import { fillingTile, fittingTile, stepInGrid, type Step } from "../paint/layout";
import { clippedCount, fullScale, magnitudeQuantile, signOf, type Scale } from "../paint/scale";
import type { TileSet } from "../paint/tile";
import type { Explorer } from "./explorer.svelte";
import { parseFilter, type FilterProblem } from "./filter";
import { projectionsRequest } from "./projections";
import { optimizedRequest, UNITS_AT_ONCE } from "./synthesis";
import { sheetRequest, TILE_SLICES } from "./requests";
import { rankCount, topClasses, type TopClass } from "./patches";
import { order, statisticsOf, withMore, type Statistics } from "./statistics";
import { shownArray, tileRange, tileSet, unitsOf } from "./tileset";
import { LARGEST_TILE } from "./url";

const MOST = 0.995;
const FAINT = 0.3;
const NO_STATISTICS: Statistics = new Map();
const NO_UNITS = new Int32Array();
// A single patch tells little of a unit: where there is room, a tile shows nine.
const NINE_PATCHES = 96;

export class SheetState {
  readonly resource;
  /** Columns of the grid on the screen, for the keys. */
  columns = $state(1);
  pageRows = $state(1);
  /** The window onto the tiles, in CSS pixels. */
  width = $state(0);
  height = $state(0);

  constructor(private readonly explorer: Explorer) {
    this.resource = explorer.resource();
  }

  readonly request = $derived.by(() => {
    const { layer, sheet, page, gradientImages, image, study } = this.explorer;
    if (!layer) return null;
    return sheetRequest(layer, page.tab === "gallery" ? "top_patches" : sheet, {
      of: page.of,
      objective: page.objective,
      images: gradientImages,
      image: image?.id ?? null,
      revision: study.has(layer) ? study.revision : null,
    });
  });

  /** The picture of the whole layer, to be saved: what the tiles show together. */
  readonly picturesRequest = $derived.by(() => {
    const { layer, page, study, images } = this.explorer;
    if (!layer || layer.opaque || !this.pictures) return null;
    const units = Array.from({ length: Math.min(UNITS_AT_ONCE, layer.shape[0]) }, (_, unit) => unit);
    if (this.pictures === "projections") return study.has(layer) ? projectionsRequest(layer, units, page.projector, study.revision) : null;
    return optimizedRequest(layer, units, { preset: page.preset, mined: study.has(layer), images });
  });

  readonly view: View | null = $derived.by(() => this.resource.view);
  /** What the View on the screen was asked for: its layer and kind may be those of the last one. */
  readonly shownSheet = $derived.by(() => this.resource.shown?.method ?? "weights");
  /** Tiles are the image's own channels, not units of the layer. */
  readonly ofImage = $derived.by(() => this.resource.shown !== null && !this.resource.shown.target);
  /** Pictures cut out of images instead of numbers painted in colors. */
  readonly patches: View | null = $derived.by(() => (this.view?.kind === "top_patches" ? this.view : null));
  /** Tiles are pictures that the network's own gradients make. */
  readonly pictures: "projections" | "optimized" | null = $derived.by(() => {
    const { sheet, page } = this.explorer;
    return page.tab !== "gallery" && (sheet === "projections" || sheet === "optimized") ? sheet : null;
  });
  readonly tiles: TileSet | null = $derived.by(() => this.view && !this.patches && !this.pictures ? tileSet(this.view, shownArray(this.view, this.shownSheet, this.explorer.page.component), TILE_SLICES) : null);
  /** The unit of each tile, before sorting. */
  readonly units: Int32Array = $derived.by(() => this.tiles?.units ?? (this.patches ? unitsOf(this.patches, axisSize(arrayOf(this.patches, "image"), "unit")) : this.pictures && this.explorer.layer && !this.explorer.layer.opaque ? Int32Array.from({ length: this.explorer.layer.shape[0] }, (_, unit) => unit) : NO_UNITS));
  /** What was mined of the layer on the screen. */
  private readonly mined: View | null = $derived.by(() => {
    if (this.patches) return this.patches;
    const view = this.explorer.study.patches.view;
    return view && !this.ofImage && view.meta.layer === this.view?.meta.layer ? view : null;
  });
  /** The View's own numbers per unit, and what is known of the units from the study besides. */
  readonly statistics: Statistics = $derived.by(() => {
    if (!this.view) return NO_STATISTICS;
    const own = statisticsOf(this.view, this.tiles ?? undefined);
    return this.mined && this.mined !== this.view ? withMore(own, statisticsOf(this.mined), this.units) : own;
  });
  /** What is most frequent among each unit's top images, by unit; empty where nothing was mined. */
  readonly classes: readonly TopClass[] = $derived.by(() => (this.mined ? topClasses(this.mined) : []));
  /** The sort in effect; a statistic that this View lacks falls back to the index. */
  readonly sort = $derived.by(() => this.statistics.has(this.explorer.page.sort) ? this.explorer.page.sort : "index");
  readonly filter = $derived.by(() => parseFilter(this.explorer.page.filter, this.statistics, this.classes.map((each) => each.names)));
  readonly filterProblem: FilterProblem | null = $derived.by(() => typeof this.filter === "function" ? null : this.filter);
  readonly order: Int32Array = $derived.by(() => {
    const { units, filter, statistics, sort } = this;
    const keep = typeof filter === "function" ? (index: number) => filter(units[index], index) : () => true;
    return order(units.length, statistics.get(sort), this.explorer.page.descending, keep);
  });
  /** Place in the order of each channel. */
  readonly places = $derived.by(() => {
    const places = new Map<number, number>();
    const { units, order } = this;
    order.forEach((index, place) => places.set(units[index], place));
    return places;
  });
  readonly place = $derived.by(() => this.explorer.channel === null || this.ofImage ? -1 : (this.places.get(this.explorer.channel) ?? -1));

  readonly sign = $derived.by(() => this.tiles ? signOf(this.tiles.range) : "signed");
  readonly layerScale: Scale = $derived.by(() => {
    if (!this.tiles) return { sign: "signed", limit: 0 };
    const full = fullScale(this.tiles.range);
    if (!this.explorer.page.clip) return full;
    return { sign: full.sign, limit: magnitudeQuantile(this.tiles.data, MOST) || full.limit };
  });
  private readonly unitLimits = $derived.by(() => {
    const { tiles, sign } = this;
    if (!tiles || this.explorer.page.scale !== "unit") return null;
    return Float64Array.from(tiles.units, (_, index) => fullScale(tileRange(tiles, index), sign).limit);
  });
  readonly scaleOf = $derived.by((): ((index: number) => Scale) => {
    const { layerScale, unitLimits } = this;
    if (!unitLimits) return () => layerScale;
    return (index) => ({ sign: layerScale.sign, limit: unitLimits[index] });
  });
  /** Most units of a layer's maps hardly show on its one scale; units that are zero everywhere show on none. */
  readonly faint = $derived.by(() => {
    const { tiles, sign, layerScale } = this;
    if (!tiles || this.view?.kind !== "maps" || this.explorer.page.scale === "unit" || layerScale.limit === 0) return false;
    let [alive, faint] = [0, 0];
    for (let index = 0; index < tiles.units.length; index++) {
      const { limit } = fullScale(tileRange(tiles, index), sign);
      alive += Number(limit > 0);
      faint += Number(limit > 0 && limit < FAINT * layerScale.limit);
    }
    return faint > alive / 2;
  });
  /** Values that the scale can't show. */
  readonly clipped = $derived.by(() => this.tiles && this.explorer.page.clip && this.explorer.page.scale === "layer"
      ? clippedCount(this.tiles.data, this.layerScale)
      : 0);

  /** Size of a tile: the chosen one, or one with which all units fit. Filtering doesn't change it. */
  readonly tile = $derived.by(() => {
    const { page } = this.explorer;
    if (this.ofImage) return page.tile || Math.max(48, Math.min(LARGEST_TILE, fillingTile(Math.max(1, this.order.length), this.width)));
    return page.tile || fittingTile(this.units.length, this.width, this.height);
  });

  /** How many of a unit's patches its tile shows. */
  readonly patchCells = $derived.by(() => {
    const { patches } = this;
    if (this.pictures === "optimized") return 1;
    return patches ? Math.min(this.tile >= NINE_PATCHES ? 9 : 1, rankCount(patches, this.explorer.page.which)) : 0;
  });

  /** The unit that a key leads to: along the tiles, or by index where the tiles are none of the layer's units. */
  neighbor(step: Step): number | null {
    const { channel, layer } = this.explorer;
    if (this.ofImage) {
      const by = { right: 1, down: 1, left: -1, up: -1 }[step as string] ?? 0;
      return layer && channel !== null ? Math.min(layer.shape[0] - 1, Math.max(0, channel + by)) : null;
    }
    return this.channelAt(this.place < 0 ? 0 : stepInGrid(this.place, step, this.order.length, this.columns, this.pageRows));
  }

  /** The address that a place of the sheet stands for. */
  channelAt(place: number): number | null {
    const { units, order } = this;
    return place >= 0 && place < order.length ? units[order[place]] : null;
  }
}
