import { describe, expect, test, vi } from "vitest";

import type { Layer, ReceptiveFieldBox } from "../src/api/schema";
import type { NamedArray, View } from "../src/api/view";
import { readConvolution, shareNorms, strongestChannels, takeApart, takePatch } from "../src/state/convolution";
import { FieldState } from "../src/state/field.svelte";
import { parseFilter } from "../src/state/filter";
import { nearestKernel } from "../src/state/graph";
import { nearest } from "../src/state/nearest";
import { formatObjective, parseObjective } from "../src/state/objective";
import { positionAt, seenBox } from "../src/state/receptive";
import { histogram, order, rankOf, statisticsOf } from "../src/state/statistics";
import { shownArray, tileRange, tileSet } from "../src/state/tileset";
import { arcs, spineRows, unfolded } from "../src/state/spine";

function array(shape: number[], axes: string[], fill: (index: number) => number = Math.random): NamedArray {
  return { data: Float32Array.from({ length: shape.reduce((product, size) => product * size, 1) }, (_, index) => fill(index)), shape, axes };
}

function view(kind: string, arrays: Record<string, NamedArray>, meta: Record<string, unknown> = {}): View {
  return { kind, arrays: new Map(Object.entries(arrays)), meta: { caption: "", warnings: [], ranges: {}, ...meta }, recipe: null, bytes: 0 };
}

function layer(address: string, inputs: string[], more: Partial<Layer> = {}): Layer {
  return {
    index: 0, address, path: address, call: 0, kind: "Conv2d", label: "", operation: "module", depth: 0, shape: [4, 8, 8], axes: [],
    parameters: 1, inputs, receptive_field: { rows: { size: 3, stride: 2, offset: -1 }, columns: { size: 5, stride: 1, offset: 0 }, exact: true, reason: "", uniform: true },
    opaque: "", warnings: [], has_kernel: true, kernel_size: [3, 3], details: {}, ...more,
  };
}

describe("sorting and filtering", () => {
  const norm = Float32Array.from([3, NaN, 1, 3, 2]);

  test("stable, NaN last either way", () => {
    expect([...order(5, norm, false, () => true)]).toEqual([2, 4, 0, 3, 1]);
    expect([...order(5, norm, true, () => true)]).toEqual([0, 3, 4, 2, 1]);
    expect([...order(5, undefined, true, (index) => index !== 2)]).toEqual([4, 3, 1, 0]);
  });

  test("after sorting and filtering each picture is still its own unit's", () => {
    const units = [7, 3, 11, 5];
    const kernels = view("kernels", {
      kernel: array([4, 2, 3, 3], ["unit", "slice", "row", "column"], (index) => Math.floor(index / 18)),
      channel: array([4, 2], ["unit", "slice"], (index) => index % 2),
      norm: array([4], ["unit"], (index) => [2, 9, 4, 1][index]),
    }, { units });
    const tiles = tileSet(kernels, shownArray(kernels, "weights"), 9);
    const statistics = statisticsOf(kernels, tiles);
    const keep = parseFilter("norm > 1", statistics);
    if (typeof keep !== "function") throw new Error("the filter is right");
    const places = order(4, statistics.get("norm"), true, (index) => keep(tiles.units[index], index));
    expect([...places].map((index) => tiles.units[index])).toEqual([3, 11, 7]);
    for (const index of places) expect(tiles.data[index * tiles.stride]).toBe(units.indexOf(tiles.units[index]));
  });

  test.each([
    ["", [0, 1, 2, 3, 4]], ["1-2, 4", [1, 2, 4]], ["norm >= 2", [0, 3, 4]], ["norm>=2 and not 3", [0, 4]], ["norm = 1 or 0", [0, 2]],
    ["index < 2", [0, 1]], ["conv1:3", [3]], ["NORM < 3 && index > 2", [4]], ["norm > -1e9", [0, 2, 3, 4]],
  ])("%j", (text, expected) => {
    const keep = parseFilter(text, new Map([["norm", norm]]));
    expect(typeof keep).toBe("function");
    expect([0, 1, 2, 3, 4].filter((index) => (keep as (channel: number, index: number) => boolean)(index, index))).toEqual(expected);
  });

  test("a wrong filter says which part", () => {
    expect(parseFilter("1-2, hello world", new Map())).toEqual({ problem: "term", text: "hello world" });
    expect(parseFilter("size > 3", new Map([["norm", norm]]))).toMatchObject({ problem: "statistic", text: "size", known: ["norm"] });
  });

  test("ranks and histograms", () => {
    expect(rankOf([3, 1, 3, 2], 3)).toBe(3);
    expect(histogram([0, 0.5, 1, NaN, Infinity], 2).counts).toEqual([1, 2]);
  });
});

describe("tiles", () => {
  test("kernels of 1×1: cells are the channels in their own order, the same in every tile", () => {
    const channels = [2, 0, 1, 1, 2, 0];
    const kernels = view("kernels", {
      kernel: array([2, 3, 1, 1], ["unit", "slice", "row", "column"], (index) => 10 * Math.floor(index / 3) + channels[index]),
      channel: array([2, 3], ["unit", "slice"], (index) => channels[index]),
    });
    const tiles = tileSet(kernels, "kernel", 9);
    expect([...tiles.data as Float32Array]).toEqual([0, 1, 2, 10, 11, 12]);
    expect([tiles.rows, tiles.columns, tiles.count]).toEqual([2, 2, 3]);
  });

  test("of several images the first one's maps are shown", () => {
    const maps = view("maps", { map: array([2, 3, 2, 2], ["image", "unit", "row", "column"], (index) => index) });
    const tiles = tileSet(maps, "map", 9);
    expect([...tiles.units]).toEqual([0, 1, 2]);
    expect(tileRange(tiles, 2)).toMatchObject({ minimum: 8, maximum: 11 });
  });

  test("first-layer kernels are one picture in color", () => {
    const kernels = view("kernels", { kernel: array([2, 3, 3, 3], ["unit", "slice", "row", "column"]) }, { layout: "color" });
    expect(tileSet(kernels, "kernel", 9).mode).toBe("color");
  });
});

describe("one number taken apart", () => {
  // 2 channels of 4×5, kernel 3×2, stride 2 and 1, padding 1 and 0, dilation 1 and 2.
  const input = array([2, 4, 5], ["channel", "row", "column"], (index) => Math.sin(index));
  const kernel = array([2, 3, 2], ["channel", "row", "column"], (index) => Math.cos(3 * index));
  const [outputRows, outputColumns] = [2, 3];
  const padded = (channel: number, row: number, column: number) =>
    row < 0 || row >= 4 || column < 0 || column >= 5 ? 0 : input.data[channel * 20 + row * 5 + column];
  const slow = (row: number, column: number) => {
    let sum = 0.25;
    for (let channel = 0; channel < 2; channel++)
      for (let down = 0; down < 3; down++)
        for (let across = 0; across < 2; across++)
          sum += padded(channel, 2 * row - 1 + down, column + 2 * across) * kernel.data[channel * 6 + down * 2 + across];
    return sum;
  };
  const upstream = array([outputRows, outputColumns], ["row", "column"], (index) => index - 2);
  const blank = view("convolution", {
    input, kernel, upstream, bias: array([1], ["unit"], () => 0.25), channel: array([2], ["channel"], (index) => index),
    output: array([outputRows, outputColumns], ["row", "column"], (index) => slow(Math.floor(index / 3), index % 3)),
    weight_gradient: array([2, 3, 2], ["channel", "row", "column"], () => 0),
  }, { stride: [2, 1], padding: [1, 0], dilation: [1, 2], padding_value: 0 });
  const convolution = readConvolution(blank);

  test("patch × kernel, summed, plus bias, is the output everywhere", () => {
    for (let row = 0; row < outputRows; row++) {
      for (let column = 0; column < outputColumns; column++) {
        const taken = takeApart(convolution, { row, column });
        expect(taken.result).toBeCloseTo(convolution.output[row * outputColumns + column], 5);
        expect(taken.product.reduce((sum, value) => sum + value, 0.25)).toBeCloseTo(taken.result, 5);
      }
    }
  });

  test("shares of all positions add up to the weight gradient", () => {
    const sum = new Float64Array(12);
    const norms = shareNorms(convolution);
    for (let row = 0; row < outputRows; row++) {
      for (let column = 0; column < outputColumns; column++) {
        const { share } = takeApart(convolution, { row, column });
        share.forEach((value, cell) => (sum[cell] += value));
        expect(norms[row * outputColumns + column]).toBeCloseTo(Math.hypot(...share), 4);
      }
    }
    const direct = Array.from({ length: 12 }, (_, cell) => {
      const [channel, down, across] = [Math.floor(cell / 6), Math.floor((cell % 6) / 2), cell % 2];
      let total = 0;
      for (let place = 0; place < 6; place++) {
        total += upstream.data[place] * padded(channel, 2 * Math.floor(place / 3) - 1 + down, (place % 3) + 2 * across);
      }
      return total;
    });
    direct.forEach((value, cell) => expect(sum[cell]).toBeCloseTo(value, 4));
  });

  test("padding is seen as it is", () => expect([...takePatch(convolution, { row: 0, column: 0 })].slice(0, 2)).toEqual([0, 0]));
  test("strongest channels first", () => expect(strongestChannels([1, -5, 3])).toEqual([1, 2, 0]));
});

describe("receptive fields", () => {
  const field = (offset: number, size: number, stride: number | null, more: Partial<Layer["receptive_field"]> = {}) => ({
    rows: { size, stride, offset }, columns: { size, stride, offset }, exact: true, reason: "", uniform: true, ...more,
  });

  test("clipped to the image as the server does, also where nothing is left", () => {
    expect(seenBox(layer("a", []), { row: 0, column: 6 }, [10, 10])).toEqual({ row: 0, rows: 2, column: 6, columns: 4 });
    const beyond = layer("b", [], { receptive_field: field(-1, 3, 12) });
    expect(seenBox(beyond, { row: 0, column: 1 }, [10, 10])).toEqual({ row: 0, rows: 2, column: 11, columns: 0 });
    const pooled = layer("c", [], { shape: [4, 1, 1], receptive_field: field(-394, 1043, null) });
    expect(seenBox(pooled, { row: 0, column: 0 }, [224, 224])).toEqual({ row: 0, rows: 224, column: 0, columns: 224 });
  });

  test.each([
    ["units differ", field(0, 7, 1, { uniform: false })],
    ["it isn't followed", field(0, 7, 1, { exact: false, reason: "fft" })],
    ["positions are uneven", field(0, 7, null)],
    ["some positions see nothing", field(0, 7, 1, { reason: "padding" })],
  ])("the layer alone can't tell where %s", (_, receptive_field) =>
    expect(seenBox(layer("a", [], { receptive_field }), { row: 1, column: 1 }, [10, 10])).toBeNull());

  test("the pixel in the middle of a field leads back to its position", () => {
    const each = layer("a", []);
    for (let row = 0; row < 8; row++) expect(positionAt(each, 2 * row, row + 2, [16, 12])).toEqual({ row, column: row });
    expect(positionAt(layer("b", [], { receptive_field: field(0, 9, null) }), 8, 15, [16, 16])).toEqual({ row: 4, column: 7 });
  });

  test("asked for after a pause, once, and never shown for another neuron", async () => {
    vi.useFakeTimers();
    const asked: string[] = [];
    const answers = new Map<string, (box: ReceptiveFieldBox) => void>();
    const state = new FieldState({
      receptiveField: (unit) => {
        asked.push(unit);
        return new Promise((resolve) => answers.set(unit, resolve));
      },
    });
    const uneven = layer("cat", [], { receptive_field: field(0, 7, 1, { uniform: false }) });
    const box = (row: number): ReceptiveFieldBox => ({ row, column: 0, rows: 3, columns: 3, unclipped: { row, column: 0, rows: 3, columns: 3 }, exact: true, reason: "" });
    const look = (channel: number, row: number) => state.look(uneven, channel, { row, column: 0 }, [10, 10]);
    look(0, 0);
    look(0, 1);
    await vi.advanceTimersByTimeAsync(200);
    expect(asked).toEqual(["cat:0:1,0"]);
    look(1, 2);
    answers.get("cat:0:1,0")?.(box(1));
    await vi.advanceTimersByTimeAsync(200);
    expect([state.shown, state.stale]).toEqual([null, true]);
    answers.get("cat:1:2,0")?.(box(2));
    await vi.advanceTimersByTimeAsync(1);
    expect([state.shown?.row, state.stale]).toEqual([2, false]);
    look(0, 1);
    expect(state.shown?.row).toBe(1);
    expect(asked).toHaveLength(2);
    vi.useRealTimers();
  });
});

describe("the nearest kernel before", () => {
  const none = { has_kernel: false };
  const table = new Map([
    layer("stem", ["input"]), layer("block", ["stem"], { ...none, operation: "block" }), layer("block.conv", ["stem"]),
    layer("block.bn", ["block.conv"], none), layer("block.relu", ["block.bn"], none), layer("add", ["block.relu", "stem"], none),
    layer("relu", ["add"], none), layer("first", ["input"], none),
  ].map((each) => [each.address, each]));
  const before = (address: string) => nearestKernel(table.get(address) as Layer, table)?.address ?? null;

  test.each([["block.relu", "block.conv"], ["add", "stem"], ["relu", "stem"], ["block", "block.conv"], ["first", null]])("%s: %s", (address, wanted) =>
    expect(before(address)).toBe(wanted));
});

describe("the network's rows", () => {
  const layers = [
    layer("block", ["input"], { operation: "block" }),
    layer("block.conv1", ["input"]), layer("block.relu", ["block.conv1"]), layer("block.conv2", ["block.relu"]),
    layer("block.add", ["block.conv2", "block.conv1"], { operation: "function" }), layer("fc", ["block.add"]),
  ];

  test("grouped by path, in order of the calls", () => {
    const rows = spineRows(layers);
    expect(rows.map((row) => `${row.kind} ${row.label} ${row.depth}`)).toEqual([
      "group block 0", "layer conv1 1", "layer relu 1", "layer conv2 1", "layer add 1", "layer fc 0",
    ]);
    expect(unfolded(rows, new Set(["block"])).map((row) => row.key)).toEqual(["block", "fc"]);
  });

  test("only skips have arcs; folded groups keep none inside", () => {
    const rows = spineRows(layers);
    expect(arcs(rows, layers).map((arc) => [rows[arc.from].key, rows[arc.to].key])).toEqual([["block.conv1", "block.add"]]);
    expect(arcs(unfolded(rows, new Set(["block"])), layers)).toEqual([]);
  });
});

test.each(["loss", "loss:true", "loss:predicted", "loss:207", "score", "score:3", "unit:layer1.0.conv1:3:1,2"])("objective %s", (text) =>
  expect(formatObjective(parseObjective(text))).toBe(text));

test("did you mean", () => {
  expect(nearest("layer4.1.conv", ["layer4.1.conv2", "fc"])).toBe("layer4.1.conv2");
  expect(nearest("zzzzzz", ["layer4.1.conv2", "fc"])).toBeNull();
});
