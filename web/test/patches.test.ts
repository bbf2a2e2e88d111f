import { describe, expect, test, vi } from "vitest";

import { Failure } from "../src/api/failure";
import type { NamedArray, View } from "../src/api/view";
import { blockAt, blockLeft, blockRows, blockTop, cellCorner, lineBlocks, tileBlocks, type BlockLayout } from "../src/paint/blocks";
import { MARGIN, sheetLayout } from "../src/paint/layout";
import { atlasPath, spans, type AtlasRequest } from "../src/sources/source";
import { atlasSide, AtlasStore, unitsAtOnce, type AtlasSet, type Picture } from "../src/state/atlases";
import { parseFilter } from "../src/state/filter";
import { barPlace, classCounts, distribution, filledRanks, rankCount, spread, topClasses, unitPatches, type Bar } from "../src/state/patches";
import { statisticsOf, withMore } from "../src/state/statistics";
import { nearby } from "../src/state/wall.svelte";

const named = (data: number[], shape: number[], axes: string[]): NamedArray => ({ data: Float64Array.from(data), shape, axes });

/** Two units, three ranks, the last rank of unit 1 missing. */
function view(units: number[] | null = null): View {
  const ranked = (name: string, values: number[]): [string, NamedArray] => [name, named(values, [2, 3], ["unit", "rank"])];
  const boxes = Array.from({ length: 24 }, (_, place) => place);
  const arrays = new Map<string, NamedArray>([
    ranked("value", [9, 8, 7, 3, 2, NaN]), ranked("image", [4, 0, 2, 1, 4, -1]),
    ranked("row", [1, 2, 3, 4, 5, 0]), ranked("column", [6, 5, 4, 3, 2, 0]),
    ["box", named(boxes, [2, 3, 4], ["unit", "rank", "side"])],
    ranked("quantile_value", [9, 5, 1, 3, 2, 1]), ranked("quantile_image", [4, 5, 6, 1, 2, 3]),
    ranked("quantile_row", [0, 0, 0, 0, 0, 0]), ranked("quantile_column", [0, 0, 0, 0, 0, 0]),
    ["quantile_box", named(boxes, [2, 3, 4], ["unit", "rank", "side"])], ranked("quantile", [1, 0.5, 0.1, 1, 0.5, 0.1]),
    ["class_index", named([7, 3, 3, -1], [2, 2], ["unit", "class_rank"])],
    ["class_count", named([2, 1, 1, 0], [2, 2], ["unit", "class_rank"])],
    ["histogram", named([0, 1, 4, 0, 2, 0, 0, 1], [2, 4], ["unit", "bin"])],
    ["positive_fraction", named([0.5, 0], [2], ["unit"])],
    ["selectivity", named([0.6, 1], [2], ["unit"])],
  ]);
  const meta = {
    caption: "", warnings: [], ranges: {}, layer: "conv", units,
    image_names: { 4: "four.png", 0: "zero.png" }, class_names: { 7: "golden retriever", 3: "tabby, tabby cat" },
    histogram_edges: [-1, 0, 1, 2, 4],
  };
  return { kind: "top_patches", arrays, meta, recipe: null, bytes: 0 };
}

describe("what a View says of a unit", () => {
  test("its patches, as many as there are", () => {
    const patches = unitPatches(view(), "top", 0);
    expect(patches.map((patch) => [patch.rank, patch.image, patch.value, patch.row, patch.column])).toEqual([[0, 4, 9, 1, 6], [1, 0, 8, 2, 5], [2, 2, 7, 3, 4]]);
    expect(patches[1]).toMatchObject({ name: "zero.png", box: { row: 4, column: 5, rows: 6, columns: 7 }, quantile: null });
    expect(patches[2].name).toBe("#2");
    expect(unitPatches(view(), "top", 1).map((patch) => patch.image)).toEqual([1, 4]);
    expect(unitPatches(view(), "quantile", 0).map((patch) => patch.quantile)).toEqual([1, 0.5, 0.1]);
    expect([...filledRanks(view(), "top")]).toEqual([3, 2]);
    expect(rankCount(view(), "quantile")).toBe(3);
  });

  test("of a View that holds only some units, the right one", () => {
    expect(unitPatches(view([8, 5]), "top", 5).map((patch) => patch.image)).toEqual([1, 4]);
    expect(unitPatches(view([8, 5]), "top", 0)).toEqual([]);
    expect(classCounts(view([8, 5]), 8)).toEqual([{ name: "golden retriever", count: 2 }, { name: "tabby, tabby cat", count: 1 }]);
    expect(distribution(view([8, 5]), 5)?.total).toBe(3);
  });

  test("classes that are equally frequent are all its top class", () => {
    expect(topClasses(view())).toEqual([{ names: ["golden retriever"], count: 2, of: 3 }, { names: ["tabby, tabby cat"], count: 1, of: 1 }]);
  });

  test("its numbers beside those of another View, unit by unit", () => {
    const own = new Map([["norm", [3, 4, 5]], ["selectivity", [0, 0, 0]]]);
    const both = withMore(own, statisticsOf(view()), Int32Array.from([1, 0, 1]));
    expect([...both.keys()]).toEqual(["norm", "selectivity", "positive_fraction"]);
    expect([...(both.get("positive_fraction") as Float64Array)]).toEqual([0, 0.5, 0]);
    expect(both.get("selectivity")).toEqual([0, 0, 0]);
  });
});

describe("filtering by class", () => {
  const statistics = statisticsOf(view());
  const classes = [["golden retriever"], ["tabby, tabby cat", "tiger or not"]];
  const kept = (text: string) => {
    const keep = parseFilter(text, statistics, classes);
    return typeof keep === "function" ? [0, 1].filter((unit) => keep(unit, unit)) : keep;
  };

  test.each([
    ["class contains retriever", [0]], ["class contains RETRIEVER and selectivity > 0.5", [0]], ['class = "tabby, tabby cat"', [1]],
    ['class is "tiger or not"', [1]], ["not class contains cat", [0]], ["class contains zebra", []], ["dead", [1]], ["not dead", [0]],
    ['class contains "cat", 0', [0, 1]], ["class ~ tiger", [1]],
  ])("%s", (text, units) => expect(kept(text)).toEqual(units));

  test("where nothing was mined there are no classes", () => {
    expect(parseFilter("class contains cat", new Map())).toEqual({ problem: "statistic", text: "class", known: [] });
    expect(parseFilter("dead", new Map())).toEqual({ problem: "term", text: "dead" });
  });
});

describe("how answers are spread", () => {
  /** The bins of the mining: eight for each factor of two, and one on either side of zero that reaches almost to it. */
  function bins(values: readonly number[]): Bar[] {
    const edges = [0];
    for (let power = -126; power < 16; power++) for (let part = 0; part < 8; part++) edges.push(2 ** power * (1 + part / 8));
    const both = [...edges.slice(1).map((edge) => -edge).reverse(), ...edges];
    return both.slice(0, -1).map((low, place) => ({
      low, high: both[place + 1], count: values.filter((value) => value >= low && value < both[place + 1]).length,
    }));
  }
  const draw = (values: readonly number[]) => spread(bins(values)) as NonNullable<ReturnType<typeof spread>>;

  test("all images are in the bars, in order, without gaps, and every value is in its bar", () => {
    for (const values of [[1, 2, 3, 50], [0, 0, 0, 5], [-3, -2, -0.5], [-40, 0, 1e-6, 0.1, 700], [0, 0], [0.5], [-5, 5], [1e-20, 1e4]]) {
      const { bars, total } = draw(values);
      expect(bars.reduce((sum, bar) => sum + bar.count, 0), String(values)).toBe(values.length);
      expect(total).toBe(values.length);
      expect(bars.length).toBeLessThanOrEqual(58);
      for (let place = 1; place < bars.length; place++) expect(bars[place].low).toBeCloseTo(bars[place - 1].high, 12);
      for (const value of values) {
        const place = barPlace(bars, value);
        expect(place, `${value} of ${values}`).not.toBeNull();
        expect(bars[Math.min(bars.length - 1, Math.floor(place as number))].count).toBeGreaterThan(0);
      }
    }
  });

  test("half lie below the median, as precisely as the bins are fine", () => {
    const values = Array.from({ length: 999 }, (_, place) => 2 ** (place / 200));
    expect(draw(values).median / values[499]).toBeCloseTo(1, 1);
    expect(barPlace(draw(values).bars, 1e9)).toBeNull();
    expect(spread(bins([]))).toBeNull();
  });
});

describe("where patches lie", () => {
  test("a tile of nine is a square of three by three", () => {
    const blocks = tileBlocks(sheetLayout(20, 98, 500), 9);
    expect([blocks.line, blocks.cell, blocks.pitch]).toEqual([3, 32, 33]);
    expect(cellCorner(blocks, 4)).toEqual([33, 33]);
    expect(tileBlocks(sheetLayout(20, 60, 500), 1)).toMatchObject({ line: 1, cell: 60, label: 0 });
  });

  test.each([[300, 9, 56, 1000], [2048, 9, 56, 2100], [7, 100, 56, 700], [40, 1, 24, 320], [1000, 16, 160, 250]])(
    "%i units of %i patches of %i px in %i px fill the width, and points find them again",
    (count, cells, wanted, width) => {
      const blocks: BlockLayout = lineBlocks(count, cells, wanted, width);
      const right = blockLeft(blocks, blocks.columns - 1) + blocks.width;
      expect(right).toBeLessThanOrEqual(width - MARGIN);
      expect(blocks.columns * blocks.rows).toBeGreaterThanOrEqual(count);
      expect(blocks.total).toBeGreaterThanOrEqual(blockTop(blocks, count - 1) + blocks.height);
      for (let trial = 0; trial < 60; trial++) {
        const [place, rank] = [Math.floor(Math.random() * count), Math.floor(Math.random() * cells)];
        const [across, down] = cellCorner(blocks, rank);
        const [left, top] = [blockLeft(blocks, place) + across + 0.5, blockTop(blocks, place) + down + 0.5];
        expect(blockAt(blocks, left, top)).toEqual({ place, rank });
        expect(blockAt(blocks, left + blocks.cell, top)?.rank ?? null).not.toBe(rank);
        const [first, end] = blockRows(blocks, top - 10, 20);
        expect(Math.floor(place / blocks.columns)).toBeGreaterThanOrEqual(first);
        expect(Math.floor(place / blocks.columns)).toBeLessThan(end);
      }
      expect(blockAt(blocks, blockLeft(blocks, 0) + 1, MARGIN + 2)).toEqual({ place: 0, rank: null });
    },
  );

  test("what is in view is fetched first", () => {
    const blocks = tileBlocks(sheetLayout(100, 48, 56 * 10 + 8), 1);
    const units = Int32Array.from({ length: 100 }, (_, place) => 99 - place);
    const near = nearby({ units, blocks }, blockTop(blocks, 40) + 1, 2 * 56 - 10);
    expect(near.slice(0, 20)).toEqual([...units.subarray(40, 60)]);
    expect(new Set(near).size).toBe(near.length);
    expect(near.at(-1)).toBe(units[39]);
  });
});

describe("pictures of patches", () => {
  const set = (more: Partial<AtlasSet> = {}): AtlasSet => ({ layer: "conv", which: "top", cut: "crop", ranks: 1, side: 64, revision: 1, ...more });

  class Fake implements Picture {
    closed = false;
    constructor(readonly request: AtlasRequest) {}
    get width() {
      return this.request.ranks * this.request.side;
    }
    get height() {
      return this.request.units.length * this.request.side;
    }
    close() {
      this.closed = true;
    }
  }

  function source() {
    const asked: { request: AtlasRequest; signal: AbortSignal; answer: () => Promise<Fake>; fail: (error: unknown) => Promise<void> }[] = [];
    const load = (request: AtlasRequest, signal: AbortSignal) =>
      new Promise<Fake>((resolve, reject) => {
        const made = new Fake(request);
        const settle = async () => {
          for (let turn = 0; turn < 5; turn++) await Promise.resolve();
        };
        asked.push({
          request, signal,
          answer: async () => (resolve(made), await settle(), made),
          fail: async (error) => (reject(error), await settle()),
        });
      });
    return { asked, load };
  }

  const range = (count: number, from = 0) => Array.from({ length: count }, (_, place) => from + place);

  test("every unit finds its own row, in whatever order they were asked for", async () => {
    const { asked, load } = source();
    const store = new AtlasStore(load, () => undefined);
    store.want(set(), [7, 3, 11]);
    expect(asked[0].request.units).toEqual([7, 3, 11]);
    expect(store.find(set(), 3)).toBeNull();
    const picture = await asked[0].answer();
    for (const [row, unit] of [7, 3, 11].entries()) expect(store.find(set(), unit)).toMatchObject({ picture, row, side: 64, ranks: 1, fit: "exact" });
    store.want(set(), [3, 5]);
    expect(asked[1].request.units).toEqual([5]);
  });

  test("a few at once, the first ones first; what isn't wanted any more is dropped", () => {
    const { asked, load } = source();
    const store = new AtlasStore(load, () => undefined);
    store.want(set({ ranks: 9 }), range(100));
    expect(asked.map((each) => each.request.units[0])).toEqual([0, 7, 14]);
    store.want(set({ ranks: 9 }), range(10, 7));
    expect(asked.map((each) => each.signal.aborted)).toEqual([true, false, false]);
    expect(asked.slice(3).flatMap((each) => each.request.units)).toEqual([]);
    store.want(set({ ranks: 9, cut: "mask" }), range(3));
    expect(asked.map((each) => each.signal.aborted)).toEqual([true, true, true, false]);
  });

  test("until the right ones are there, the same in another size; other ones are marked as old", async () => {
    const { asked, load } = source();
    const store = new AtlasStore(load, () => undefined);
    store.want(set({ which: "bottom" }), [2]);
    await asked[0].answer();
    expect(store.find(set(), 2)).toMatchObject({ fit: "old" });
    store.want(set({ side: 32 }), [2]);
    await asked[1].answer();
    expect(store.find(set(), 2)).toMatchObject({ fit: "scaled", side: 32 });
    expect(store.find(set({ revision: 2, side: 32 }), 2)).toMatchObject({ fit: "scaled" });
    expect(store.find(set({ layer: "other" }), 2)).toBeNull();
  });

  test("the budget holds, and what is forgotten is closed and asked for again", async () => {
    const { asked, load } = source();
    const bytes = 4 * 64 * 64;
    const store = new AtlasStore(load, () => undefined, 3 * bytes);
    const made: Fake[] = [];
    for (const unit of range(5)) {
      store.want(set(), [unit]);
      made.push(await asked[unit].answer());
    }
    expect(made.map((picture) => picture.closed)).toEqual([true, true, false, false, false]);
    expect(store.find(set(), 0)).toBeNull();
    store.want(set(), [0, 4]);
    expect(asked[5].request.units).toEqual([0]);
    store.close();
    expect(made.every((picture) => picture.closed)).toBe(true);
  });

  test("a failure is told and stops; asking again tries again", async () => {
    const { asked, load } = source();
    const changed = vi.fn();
    const store = new AtlasStore(load, changed);
    store.want(set({ ranks: 9 }), range(100));
    await asked[0].fail(new Failure({ what: "no images", where: "", next_step: "", kind: "unknown_name" }));
    expect(store.failure?.description.what).toBe("no images");
    expect(asked).toHaveLength(3);
    store.want(set({ ranks: 9 }), range(3, 1));
    expect([store.failure !== null, asked.length], "scrolling on asks for nothing").toEqual([true, 3]);
    store.retry(range(3, 1));
    expect([store.failure, asked.length]).toEqual([null, 4]);
    expect(changed).toHaveBeenCalled();
  });

  test("an answer that comes too late is closed", async () => {
    const { asked, load } = source();
    const store = new AtlasStore(load, () => undefined);
    store.want(set(), [1]);
    store.want(null, []);
    const picture = await asked[0].answer();
    expect(picture.closed).toBe(true);
    expect(store.find(set(), 1)).toBeNull();
  });

  test("sizes come in steps and fit what a picture can hold", () => {
    for (const ranks of [1, 9, 100]) {
      for (let wanted = 1; wanted <= 700; wanted += 3) {
        const side = atlasSide(wanted, ranks);
        expect(side * ranks).toBeLessThanOrEqual(16_383);
        if (side < 512 && ranks < 100) expect(side).toBeGreaterThanOrEqual(wanted);
        if (wanted > 64 && side > wanted) expect(side / wanted).toBeLessThan(1.26);
        const units = unitsAtOnce({ ranks, side });
        expect(units).toBeGreaterThanOrEqual(1);
        expect(units * side).toBeLessThanOrEqual(16_383);
      }
    }
  });

  test("units are named as numbers and ranges, in their order", () => {
    expect(spans([0, 1, 2, 7, 402, 20, 21])).toBe("0-2,7,402,20-21");
    expect(spans([])).toBe("");
    const path = atlasPath({ layer: "layer1.0@1", which: "top", cut: "crop", units: [4, 5], ranks: 9, side: 48 });
    expect(Object.fromEntries(new URLSearchParams(path.split("?")[1]))).toEqual({ layer: "layer1.0@1", which: "top", units: "4-5", ranks: "0-8", side: "48", mode: "crop" });
  });
});
