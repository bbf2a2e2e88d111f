import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import type { NamedArray, View } from "../src/api/view";
import { largestMistakes, rowParts } from "../src/paint/matrix";
import { acrossOf, downOf, extent, formatTick, plotFrame, powers, stepAt, ticks } from "../src/paint/plot";
import { rangeOf } from "../src/paint/scale";
import { evenTile } from "../src/paint/strip";
import { sheetLayout } from "../src/paint/layout";
import { byLine } from "../src/state/train/draft.svelte";
import { FrameFeed } from "../src/state/train/feed.svelte";
import { softmaxTerms, svmTerms } from "../src/state/train/loss";
import { deadUnits, joinRanges, roundLimit, signFor, spatialGradients, steadyScale, stretched, tilesOf } from "../src/state/train/pictures";
import { changesOf, usualEntrants } from "../src/state/train/race.svelte";
import { joined, RecordedCache, RecordedMoment, RecordedSteps } from "../src/state/train/recorded.svelte";
import { findSamples } from "../src/state/train/samples";
import { curveRows, curvesAsText, nearestIndex, readCurves, smooth, span, valueAt } from "../src/state/train/series";
import { growthSteps, sliderPart, stepAtPart, stepBefore, union } from "../src/state/train/steps";
import { norm, unitPlanes } from "../src/state/train/unit";

const array = (shape: number[], axes: string[], value: (index: number) => number = (index) => index): NamedArray => ({
  data: Float32Array.from({ length: shape.reduce((all, size) => all * size, 1) }, (_, index) => value(index)),
  shape,
  axes,
});
const MAPS = ["image", "unit", "row", "column"];
const KERNELS = ["unit", "slice", "row", "column"];
const view = (arrays: Record<string, NamedArray>, meta: Record<string, unknown> = {}): View => ({
  kind: "test",
  arrays: new Map(Object.entries(arrays)),
  meta: { caption: "", warnings: [], ranges: {}, ...meta },
  recipe: null,
  bytes: 8,
});

describe("curves", () => {
  test("smoothing is the weighted mean that it says, and gaps stay gaps", () => {
    const values = [3, 1, NaN, 4, 1, 5];
    const memory = 0.8;
    const found = smooth({ steps: values.map((_, index) => index), values }, memory).values;
    const finite: number[] = [];
    values.forEach((value, index) => {
      if (Number.isNaN(value)) return expect(found[index]).toBeNaN();
      finite.push(value);
      const weights = finite.map((_, place) => memory ** (finite.length - 1 - place));
      const mean = finite.reduce((sum, each, place) => sum + each * weights[place], 0) / weights.reduce((sum, each) => sum + each, 0);
      expect(found[index]).toBeCloseTo(mean, 12);
    });
  });

  test("the nearest point is that of a search through all of them", () => {
    const steps = [0, 3, 4, 10, 11, 40];
    for (let step = -2; step < 45; step += 0.5) {
      const distance = Math.min(...steps.map((each) => Math.abs(each - step)));
      expect(Math.abs(steps[nearestIndex(steps, step)] - step)).toBe(distance);
    }
    expect(nearestIndex([], 3)).toBe(-1);
    expect(valueAt(undefined, 3)).toBeNull();
  });

  test("what isn't finite comes as null and is NaN", () => {
    const curves = readCurves([{ name: "loss", steps: [0, 1], values: [1.5, null] }]);
    expect([...(curves.get("loss")?.values as Float64Array)]).toEqual([1.5, NaN]);
    expect(curvesAsText(curves)).toBe("step,loss\n0,1.5\n1,NaN\n");
  });

  test("a table has the first and the last step, and as many rows as it may", () => {
    const steps = Array.from({ length: 101 }, (_, index) => index * 7);
    const rows = curveRows([{ steps, values: steps }, undefined], 5);
    expect(rows.map((row) => row.step)).toEqual([0, 175, 350, 525, 700]);
    expect(rows[1].values).toEqual([175, null]);
    expect(curveRows([], 5)).toEqual([]);
    expect(span([{ steps, values: steps }, { steps: [900], values: [1] }])).toEqual([0, 900]);
    expect(span([])).toEqual([0, 1]);
  });
});

describe("time", () => {
  const steps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 300, 700, 1_200];

  test("the recorded step before", () => {
    expect(stepBefore(steps, 299)).toBe(10);
    expect(stepBefore(steps, 300)).toBe(300);
    expect(stepBefore([5, 9], 2)).toBe(5);
    expect(stepBefore([], 2)).toBeNull();
  });

  test("a strip of growth begins with the first step, ends with the last, and has each once, in order", () => {
    for (const count of [2, 5, 12, 100]) {
      const found = growthSteps(steps, count);
      expect(found[0]).toBe(0);
      expect(found.at(-1)).toBe(1_200);
      expect(found).toEqual([...new Set(found)].sort((one, other) => one - other));
      expect(found.length).toBeLessThanOrEqual(count);
    }
    expect(growthSteps(steps, 12)).toContain(300);
    expect(growthSteps([7], 12)).toEqual([7]);
    expect(growthSteps([], 12)).toEqual([]);
  });

  test("every recorded step has a place on the slider that leads back to it", () => {
    for (const step of steps) expect(stepAtPart(steps, sliderPart(steps, step))).toBe(step);
    expect(sliderPart(steps, -5)).toBe(0);
    expect(sliderPart(steps, 9_999)).toBe(1);
    expect(sliderPart([4], 4)).toBe(0);
    expect(union([[3, 1], [2, 3]])).toEqual([1, 2, 3]);
  });
});

describe("pictures", () => {
  test("spatial gradients are those of numpy.gradient", () => {
    const kernels = array([2, 3, 4, 5], KERNELS, (index) => Math.sin(index * index));
    const found = spatialGradients(kernels)!;
    const along = (values: number[]): number[] =>
      values.map((_, at) => (at === 0 ? values[1] - values[0] : at === values.length - 1 ? values[at] - values[at - 1] : (values[at + 1] - values[at - 1]) / 2));
    for (let plane = 0; plane < 6; plane++) {
      const at = (row: number, column: number) => kernels.data[plane * 20 + row * 5 + column];
      for (let row = 0; row < 4; row++) {
        for (let column = 0; column < 5; column++) {
          const down = along([0, 1, 2, 3].map((each) => at(each, column)))[row];
          const across = along([0, 1, 2, 3, 4].map((each) => at(row, each)))[column];
          expect(found.data[plane * 20 + row * 5 + column]).toBeCloseTo(Math.hypot(down, across), 5);
        }
      }
    }
    expect(spatialGradients(array([2, 3, 1, 5], KERNELS))).toBeNull();
  });

  test("a scale ends at the next round number, never below the largest value", () => {
    for (let power = -12; power < 12; power++) {
      for (const factor of [1, 1.01, 2.5, 4.999, 9.99]) {
        const limit = factor * 10 ** power;
        expect(roundLimit(limit)).toBeGreaterThanOrEqual(limit * (1 - 1e-6));
        expect(roundLimit(limit)).toBeLessThanOrEqual(limit * 1.51);
      }
    }
    expect(roundLimit(0)).toBe(0);
    expect(roundLimit(Infinity)).toBe(0);
    const values = Float32Array.from({ length: 1000 }, (_, index) => (index === 0 ? -100 : index / 1000));
    expect(steadyScale(rangeOf(values), "signed", [values])).toEqual({ sign: "signed", limit: 100 });
    expect(steadyScale(rangeOf(values), "signed", [values], 0.995).limit).toBeLessThan(2);
  });

  test("zero is in the middle of everything but activations that are never negative", () => {
    const range = rangeOf([0, 0]);
    expect(signFor("activations", range)).toBe("positive");
    expect(signFor("activations", rangeOf([-1, 2]))).toBe("signed");
    expect(signFor("activation_gradients", range)).toBe("signed");
    expect(signFor("weights", rangeOf([1, 2]))).toBe("signed");
  });

  test("two moments beside each other share one range, and count what isn't a number in both", () => {
    const range = joinRanges([rangeOf([1, NaN]), rangeOf([-3, 2, Infinity])]);
    expect(range).toEqual({ minimum: -3, maximum: 2, count: 5, nan: 1, positive_infinity: 1, negative_infinity: 0 });
    expect(joinRanges([]).minimum).toBeNull();
  });

  test("the maps of the image asked for, of the last one when there are fewer", () => {
    const frame = view({ "relu1.map": array([2, 3, 2, 2], MAPS) }, { ranges: { "relu1.map": rangeOf([0, 23]) } });
    const tiles = (image: number) => tilesOf(frame, "relu1", null, "activations", image)!;
    expect(Array.from(tiles(0).data)).toEqual(Array.from({ length: 12 }, (_, index) => index));
    expect(tiles(1).data[0]).toBe(12);
    expect(tiles(7).data[0]).toBe(12);
    expect(tiles(0)).toMatchObject({ rows: 2, columns: 2, stride: 4, planes: 1 });
    expect(tiles(0).range.maximum).toBe(23);
    expect(tilesOf(frame, "relu1", null, "activation_gradients", 0)).toBeNull();
  });

  test("the input is one picture in color, stretched so that it looks like one", () => {
    const frame = view({ "input.map": array([1, 3, 2, 2], MAPS, (index) => index - 4) });
    const tiles = tilesOf(frame, "input", null, "activations", 0)!;
    expect(tiles).toMatchObject({ mode: "color", planes: 3, stride: 12 });
    expect(tiles.units.length).toBe(1);
    const range = rangeOf(stretched(tiles).data);
    expect([range.minimum, range.maximum]).toEqual([-1, 1]);
  });

  test("kernels of a first layer are in color, others slices beside each other", () => {
    const frame = view({ "conv1.kernel": array([4, 3, 5, 5], KERNELS), "conv2.kernel": array([4, 49, 3, 3], KERNELS) });
    expect(tilesOf(frame, "conv1", "color", "weights", 0)).toMatchObject({ mode: "color", planes: 3 });
    expect(tilesOf(frame, "conv2", "slices", "weights", 0)).toMatchObject({ mode: "planes", planes: 36, stride: 441 });
    expect(tilesOf(frame, "conv1", "color", "spatial_gradients", 0)).toMatchObject({ mode: "planes", planes: 3 });
  });

  test("a unit is dead when it is zero everywhere on every image", () => {
    // Unit 1 of the second image has the only other number.
    const maps = array([2, 3, 1, 2], MAPS, (index) => (index === 1 || index === 8 ? 0.5 : 0));
    expect(deadUnits(maps)).toBe(1);
    expect(deadUnits(undefined)).toBe(0);
  });

  test("a unit's slices, and the norm of all of them", () => {
    const planes = unitPlanes(array([2, 3, 2, 2], KERNELS), 1, "slices")!;
    expect(planes.planes.map((plane) => plane.offset)).toEqual([12, 16, 20]);
    expect(norm(planes.values)).toBeCloseTo(Math.sqrt(Array.from({ length: 12 }, (_, index) => (index + 12) ** 2).reduce((sum, each) => sum + each, 0)), 10);
    expect(unitPlanes(array([2, 3, 2, 2], KERNELS), 2, "slices")).toBeNull();
  });

  test("tiles come out in as few rows as nearby sizes allow", () => {
    for (const count of [1, 6, 10, 16, 20, 96]) {
      for (const width of [200, 370, 900]) {
        const rows = (tile: number) => sheetLayout(count, tile, width).rows;
        const tile = evenTile(count, 44, width);
        expect(tile).toBeGreaterThanOrEqual(33);
        expect(tile).toBeLessThanOrEqual(51);
        for (let other = 33; other <= 51; other++) expect(rows(tile)).toBeLessThanOrEqual(rows(other));
      }
    }
  });
});

describe("recorded moments", () => {
  const recorded = (name: string, layer: string, count: number, last: number) => ({ name, layer, count, first: 0, last });
  const steps: Record<string, number[]> = { "kernels conv1": [0, 10, 100], "maps conv1": [0, 50], "maps relu1": [0, 50] };
  const source = () => ({
    steps: vi.fn(async (_run: string, name: string, layer: string) => steps[`${name} ${layer}`]),
    recorded: vi.fn(async (_run: string, name: string, layer: string, step: number) =>
      name === "images"
        ? view({ picture: array([1, 2, 2, 3], ["image", "row", "column", "channel"]) })
        : name === "kernels"
          ? view({ kernel: array([1, 1, 2, 2], KERNELS, () => step), gradient: array([1, 1, 2, 2], KERNELS), displacement: array([1, 1, 2, 2], KERNELS) }, { ranges: { kernel: rangeOf([step]) }, since: 0 })
          : view({ map: array([2, 1, 2, 2], MAPS, () => step), gradient: array([2, 1, 2, 2], MAPS) }, { labels: [3, 4], layer }),
    ),
  });
  const all = [recorded("images", "", 1, 0), recorded("kernels", "conv1", 3, 100), recorded("maps", "conv1", 2, 50), recorded("maps", "relu1", 2, 50), recorded("filters", "conv1", 9, 100)];

  test("layers that are recorded together are asked for once, and again only when there is more", async () => {
    const from = source();
    const index = new RecordedSteps(from);
    await index.take("a", all);
    expect(from.steps).toHaveBeenCalledTimes(2);
    expect(index.of("maps", "relu1")).toEqual([0, 50]);
    expect(index.all).toEqual([0, 10, 50, 100]);
    await index.take("a", all);
    expect(from.steps).toHaveBeenCalledTimes(2);
    await index.take("a", [...all.slice(0, 1), recorded("kernels", "conv1", 4, 200), ...all.slice(2)]);
    expect(from.steps).toHaveBeenCalledTimes(3);
    await index.take("b", all);
    expect(from.steps).toHaveBeenCalledTimes(5);
  });

  test("a moment holds what was last recorded of each, under the names of live frames", async () => {
    const from = source();
    const index = new RecordedSteps(from);
    await index.take("a", all);
    const moment = new RecordedMoment(new RecordedCache(from), index);
    const found = await moment.get({ run: "a", step: 60, layers: ["input", "conv1", "relu1"] });
    expect(found.meta.step).toBe(60);
    expect(found.arrays.get("conv1.kernel")?.data[0]).toBe(10);
    expect(found.arrays.get("conv1.map")?.data[0]).toBe(50);
    expect([...found.arrays.keys()].sort()).toEqual(["conv1.displacement", "conv1.kernel", "conv1.kernel_gradient", "conv1.map", "conv1.map_gradient", "input.map", "relu1.map", "relu1.map_gradient"]);
    expect(found.meta.ranges["conv1.kernel"].maximum).toBe(10);
    expect(found.meta.labels).toEqual([3, 4]);
    // Channels last becomes channels first.
    expect(Array.from(found.arrays.get("input.map")!.data)).toEqual([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
    await moment.get({ run: "a", step: 61, layers: ["conv1"] });
    expect(from.recorded).toHaveBeenCalledTimes(4);
  });

  test("nothing recorded is an empty moment", () => expect(joined(3, []).arrays.size).toBe(0));
});

describe("frames", () => {
  let hidden = false;
  const listeners = new Set<() => void>();
  beforeEach(() => {
    hidden = false;
    vi.stubGlobal("document", {
      get hidden() {
        return hidden;
      },
      addEventListener: (_: string, listener: () => void) => listeners.add(listener),
      removeEventListener: (_: string, listener: () => void) => listeners.delete(listener),
    });
    vi.stubGlobal("requestAnimationFrame", (callback: () => void) => setTimeout(callback, 1));
  });
  afterEach(() => vi.unstubAllGlobals());
  const pause = (milliseconds = 25) => new Promise((resolve) => setTimeout(resolve, milliseconds));

  function feed() {
    let number = 0;
    let waiting = 0;
    let most = 0;
    const asked: { after: number; layers: readonly string[] }[] = [];
    const source = {
      frame: async (_run: string, after: number, layers: readonly string[]) => {
        asked.push({ after, layers });
        most = Math.max(most, ++waiting);
        await pause(2);
        waiting--;
        number++;
        return view({}, { frame: number, step: number });
      },
    };
    return { feed: new FrameFeed(source), asked, most: () => most };
  }

  test("the next frame is asked for when the last is painted, one at a time, by its number", async () => {
    const { feed: frames, asked, most } = feed();
    frames.follow("a", ["conv1"]);
    await vi.waitFor(() => expect(asked.length).toBeGreaterThan(3));
    frames.stop();
    expect(most()).toBe(1);
    expect(asked.slice(0, 3).map((each) => each.after)).toEqual([0, 1, 2]);
    const count = asked.length;
    await pause();
    expect(asked.length).toBe(count);
  });

  test("a hidden page asks for nothing", async () => {
    const { feed: frames, asked } = feed();
    hidden = true;
    frames.follow("a", ["conv1"]);
    await pause();
    expect(asked).toEqual([]);
    hidden = false;
    listeners.forEach((listener) => listener());
    await vi.waitFor(() => expect(asked.length).toBeGreaterThan(0));
    frames.stop();
  });

  test("a layer that came into view is asked for at once, even of the same frame", async () => {
    const { feed: frames, asked } = feed();
    frames.follow("a", ["conv1"]);
    await vi.waitFor(() => expect(frames.frame).not.toBeNull());
    frames.follow("a", ["conv1", "conv2"]);
    await vi.waitFor(() => expect(asked.at(-1)?.layers).toContain("conv2"));
    frames.stop();
    const first = asked.find((each) => each.layers.includes("conv2"));
    expect(first?.after).toBe(0);
  });
});

describe("plots", () => {
  test("ticks are round, inside, and about as many as asked for", () => {
    for (const [low, high] of [[0, 1], [0.13, 0.97], [-3, 7], [0, 123_456], [1e-7, 9e-7]]) {
      const found = ticks(low, high, 5);
      expect(found.length).toBeGreaterThanOrEqual(2);
      expect(found.length).toBeLessThanOrEqual(6);
      for (const value of found) expect(value >= low - 1e-12 && value <= high + 1e-12).toBe(true);
    }
    expect(ticks(1, 1, 5)).toEqual([]);
    expect(powers(0.01, 100)).toEqual([0.01, 0.1, 1, 10, 100]);
    expect(powers(1.5, 8)).toEqual([2, 5]);
    expect([formatTick(0), formatTick(0.5), formatTick(20_000), formatTick(-2), formatTick(3_000_000), formatTick(1e-5)]).toEqual(["0", "0.5", "20 k", "\u22122", "3 M", "1e\u22125"]);
  });

  test("only what can be shown decides the extent", () => {
    expect(extent([{ values: [3, NaN, -1, Infinity] }], false)).toEqual([-1, 3]);
    expect(extent([{ values: [3, 0, -1, 0.5] }], true)).toEqual([0.5, 3]);
    expect(extent([{ values: [NaN] }], false)).toBeNull();
  });

  test("places and steps lead back to each other, and all values lie inside", () => {
    for (const logarithmic of [false, true]) {
      const values = [2.3, 0.01, 1, 0.4];
      const line = { name: "a", steps: [0, 10, 20, 30], values, color: "", dash: [], opacity: 1, width: 1, dots: false };
      const frame = plotFrame({ lines: [line], logarithmic, steps: [0, 30], bounds: [null, null] }, 300, 120);
      for (const step of line.steps) expect(stepAt(frame, acrossOf(frame, step))).toBeCloseTo(step, 9);
      for (const value of values) {
        expect(downOf(frame, value)).toBeGreaterThanOrEqual(frame.top - 1e-9);
        expect(downOf(frame, value)).toBeLessThanOrEqual(frame.top + frame.height + 1e-9);
      }
    }
    const flat = plotFrame({ lines: [], logarithmic: false, steps: [5, 5], bounds: [null, 1] }, 300, 120);
    expect(flat.last).toBeGreaterThan(flat.first);
    expect(flat.high).toBe(1);
  });

  test("a confusion matrix's rows add up, and its largest mistakes come first", () => {
    const counts = [[8, 2, 0], [1, 9, 0], [0, 0, 0]];
    expect(rowParts(counts)).toEqual([[0.8, 0.2, 0], [0.1, 0.9, 0], [0, 0, 0]]);
    expect(largestMistakes(counts, 5)).toEqual([[0, 1, 2], [1, 0, 1]]);
  });
});

describe("losses, term by term", () => {
  const scores = [1, 2.5, 0.2, -4, 3.1]; // no two a margin apart: there the slope jumps
  const slope = (loss: (values: number[]) => number, index: number) => {
    const moved = (by: number) => loss(scores.map((score, place) => (place === index ? score + by : score)));
    return (moved(1e-5) - moved(-1e-5)) / 2e-5;
  };

  test("softmax: the loss is −log p, its gradient that of a small step", () => {
    for (let label = 0; label < scores.length; label++) {
      const terms = softmaxTerms(scores, label);
      expect(terms.loss).toBeCloseTo(-Math.log(terms.probability[label]), 12);
      expect(terms.probability.reduce((sum, each) => sum + each, 0)).toBeCloseTo(1, 12);
      expect(terms.term.reduce((sum, each) => sum + each, 0)).toBeCloseTo(terms.loss, 12);
      scores.forEach((_, index) => expect(terms.gradient[index]).toBeCloseTo(slope((values) => softmaxTerms(values, label).loss, index), 6));
    }
    expect(softmaxTerms([1000, 0], 1).loss).toBe(1000);
  });

  test("svm: every class that comes too near adds to the loss", () => {
    for (let label = 0; label < scores.length; label++) {
      const terms = svmTerms(scores, label);
      const expected = scores.reduce((sum, score, index) => sum + (index === label ? 0 : Math.max(0, score - scores[label] + 1)), 0);
      expect(terms.loss).toBeCloseTo(expected, 12);
      scores.forEach((_, index) => expect(terms.gradient[index]).toBeCloseTo(slope((values) => svmTerms(values, label).loss, index), 6));
    }
  });
});

describe("a new run, a race, a search", () => {
  test("beside each line stand the layers that it makes", () => {
    const layer = (name: string, line: number) => ({ name, line, kind: "", shape: [1, 1, 1] as [number, number, number], text: "", parameters: 0, count: "" });
    const lines = byLine({ layers: [layer("conv1", 2), layer("flatten", 4), layer("fc1", 4)], parameters: 0, error: null });
    expect(lines.get(4)?.map((each) => each.name)).toEqual(["flatten", "fc1"]);
    expect(lines.has(3)).toBe(false);
  });

  test("an entrant says nothing that its optimizer has no use for", () => {
    const optimizer = (name: string, uses: string[]) => ({ name, title: name, uses, learning_rate: 0.01, papers: [] });
    const offer = { optimizers: [optimizer("sgd", ["momentum", "nesterov"]), optimizer("adagrad", []), optimizer("adam", ["momentum"])] } as never;
    const entrants = usualEntrants(offer);
    expect(new Set(entrants.map((each) => each.name)).size).toBe(entrants.length);
    const by = (name: string) => changesOf(entrants.find((each) => each.name === name)!, offer);
    expect(by("SGD")).toEqual({ optimizer: "sgd", learning_rate: 0.01, momentum: 0 });
    expect(by("Nesterov")).toEqual({ optimizer: "sgd", learning_rate: 0.01, momentum: 0.9, nesterov: true });
    expect(by("adagrad")).toEqual({ optimizer: "adagrad", learning_rate: 0.01 });
  });

  test("the images of a cell of the matrix are looked for until there are enough", async () => {
    const test = vi.fn(async (_run: string, indexes: readonly number[]) => ({
      step: 1,
      images: indexes.map((index) => ({ index, label: index % 3, label_name: "", correct: false, top: [{ class_index: index % 5, class_name: "", score: 0, probability: 0 }] })),
    }));
    const found = await findSamples({ test }, "a", 1_000, 2, 4, 3);
    expect(found.map((each) => each.index)).toEqual([14, 29, 44]);
    expect(test).toHaveBeenCalledTimes(1);
    expect(await findSamples({ test }, "a", 450, 9, 9, 3)).toEqual([]);
    expect(test).toHaveBeenCalledTimes(4);
  });
});
