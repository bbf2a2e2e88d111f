import { describe, expect, test, vi } from "vitest";

import type { Session } from "../src/api/schema";
import type { NamedArray, TypedArray, View } from "../src/api/view";
import { colorIndex } from "../src/paint/scale";
import { pack, palette, unpack, ZERO } from "../src/paint/colormap";
import { coverage, luminance, paintOverlayPixels, pale } from "../src/paint/overlay";
import { bytePixels, channelsLast, cropped, extentOf, pictureLimit, signedPixels } from "../src/paint/pictures";
import {
  cellRequest,
  cellUnder,
  checkRequest,
  columnsOf,
  mapScale,
  matrixMethods,
  moved,
  readMap,
  sharedScale,
  valueUnder,
} from "../src/state/attribution";
import { movedBox, readCorrespondence, readInvariance, readParts, writeParts } from "../src/state/blindness";
import { blocksOf, BlockStore, type UnitPictures } from "../src/state/blocks";
import { readChecks, verdict } from "../src/state/checks";
import { classMap } from "../src/state/occlusion";
import { projectionsRequest, readProjections } from "../src/state/projections";
import { optimizedRequest, readInverted, readOptimized } from "../src/state/synthesis";

function array(data: TypedArray, axes: string, ...shape: number[]): NamedArray {
  return { data, axes: axes.split(" "), shape };
}

const view = (kind: string, arrays: Record<string, NamedArray>, meta: Record<string, unknown> = {}): View => ({
  kind,
  arrays: new Map(Object.entries(arrays)),
  meta: { caption: "", warnings: [], ranges: {}, ...meta },
  recipe: null,
  bytes: 0,
});

const method = (name: string, ...parameters: string[]) =>
  ({ name, title: name, target: name === "weights" ? "layer" : "objective", class_sensitive: null, long: name === "smoothgrad", parameters: parameters.map((each) => ({ name: each })) }) as unknown as Session["methods"][number];

describe("the matrix", () => {
  test("shows attribution methods, quick ones first, and those that are missing with the reason", () => {
    const session = {
      methods: [method("smoothgrad", "objective", "reduce"), method("own", "objective", "reduce"), method("gradient", "objective", "reduce"), method("sanity_checks", "of", "objective", "reduce"), method("weights", "slices")],
      unavailable: [{ name: "layerwise_relevance", reason: "no zennit" }, { name: "other", reason: "broken" }],
    };
    const found = matrixMethods(session);
    expect(found.map((each) => each.name)).toEqual(["gradient", "layerwise_relevance", "smoothgrad", "own"]);
    expect(found[1].missing).toBe("no zennit");
    expect(found[2].long).toBe(true);
    expect(matrixMethods(null)).toEqual([]);
  });

  test("asks about the image's own classes until someone chooses", () => {
    expect(columnsOf([], [7, 3, 9, 1])).toEqual(["score:7", "score:3", "score:9"]);
    expect(columnsOf(["loss", "unit"], [7, 3])).toEqual(["loss", "unit"]);
  });

  test("puts a question in the library's terms", () => {
    const asked = { image: 4, unit: "conv:3:1,2", camLayer: "" };
    expect(cellRequest("gradient", "score:7", asked)).toEqual({ method: "gradient", target: undefined, images: [4], parameters: { objective: "score:7" } });
    expect(cellRequest("deconvnet", "unit", asked)).toEqual({ method: "deconvnet", target: "conv:3:1,2", images: [4], parameters: {} });
    expect(cellRequest("deconvnet", "unit", { ...asked, unit: "" })).toBeNull();
    expect(cellRequest("grad_cam", "loss", { ...asked, camLayer: "conv" })?.parameters).toEqual({ objective: "loss", layer: "conv" });
    expect(cellRequest("gradient", "loss", { ...asked, camLayer: "conv" })?.parameters).toEqual({ objective: "loss" });
    expect(checkRequest("grad_cam", "score:7", { ...asked, camLayer: "conv" })).toEqual({
      method: "sanity_checks",
      target: undefined,
      images: [4],
      parameters: { of: "grad_cam", objective: "score:7", of_parameters: '{"layer":"conv"}' },
    });
    expect(checkRequest("gradient", "unit", asked)).toEqual({ method: "sanity_checks", target: "conv:3:1,2", images: [4], parameters: { of: "gradient" } });
  });
});

describe("a map", () => {
  const made = view(
    "attribution",
    {
      map: array(Float32Array.of(0, 1, -2, 3, 9, 9, 9, 9), "image row column", 2, 2, 2),
      attribution: array(Float32Array.from({ length: 24 }, (_, at) => at), "image channel row column", 2, 3, 2, 2),
      picture: array(Uint8Array.from({ length: 24 }, (_, at) => 10 * at), "image row column color", 2, 2, 2, 3),
      completeness_error: array(Float32Array.of(0.004, 0), "image", 2),
    },
    { signed: true, values: [12.5, 1], label_names: ["zebra", "cat"], badge: "mind", facts: { steps: 50, nested: { a: 1 } } },
  );
  const map = readMap(made);

  test("is read with its photo, its channels and what is said of it", () => {
    expect([map.value, map.label, map.badge, map.signed]).toEqual([12.5, "zebra", "mind", true]);
    expect([map.range.minimum, map.range.maximum]).toEqual([-2, 3]);
    expect(map.channels.map((each) => each.offset)).toEqual([0, 4, 8]);
    expect(map.photo?.data[0]).toBeCloseTo(0.7152 * 10 + 0.0722 * 20, 4);
    expect(map.facts).toEqual([["completeness_error", expect.closeTo(0.004, 6)], ["steps", 50]]);
    expect(readMap(made, 1).map.offset).toBe(4);
  });

  test("has a scale of its own, and one that several share", () => {
    expect(mapScale(map, false)).toEqual({ sign: "signed", limit: 3 });
    expect(sharedScale([{ sign: "positive", limit: 4 }, { sign: "signed", limit: 1 }])).toEqual({ sign: "signed", limit: 4 });
    expect(sharedScale([])).toBeNull();
    const many = { map: { data: Float32Array.from({ length: 1000 }, (_, at) => (at === 0 ? 500 : 1)), offset: 0, rows: 10, columns: 100 }, range: { minimum: 1, maximum: 500 } as never, signed: false };
    expect(mapScale(many, true).limit).toBeLessThan(2);
    expect(mapScale(many, false).limit).toBe(500);
  });

  test("of any size has a value under the shared mark", () => {
    const fine = { data: Float32Array.from({ length: 16 }, (_, at) => at), offset: 0, rows: 4, columns: 4 };
    for (const point of [{ down: 0, across: 0 }, { down: 0.99, across: 0.99 }, { down: 0.5, across: 0.25 }]) {
      const [small, large] = [cellUnder(map.map, point), cellUnder(fine, point)];
      expect([Math.floor(large.row / 2), Math.floor(large.column / 2)]).toEqual([small.row, small.column]);
      expect(valueUnder(fine, point)).toBe(4 * large.row + large.column);
    }
    const on = moved({ down: 0.5, across: 0.5 }, fine, 1, -9);
    expect(cellUnder(fine, on)).toEqual({ row: 3, column: 0 });
  });
});

describe("a map over its photo", () => {
  const scale = { sign: "signed", limit: 2 } as const;
  const colors = palette("signed", "orange-blue", "light");
  const paint = (values: number[], side: number, mode: "over" | "map" | "photo" = "over", photo: number | null = 100) => {
    const [rows, columns] = [Math.sqrt(values.length), Math.sqrt(values.length)];
    const target = { data: new Uint32Array(side * side), width: side };
    const gray = photo === null ? null : { data: new Float32Array(values.length).fill(photo), offset: 0, rows, columns };
    paintOverlayPixels(target, { left: 0, top: 0, width: side, height: side }, { mode, photo: gray, map: { data: values, offset: 0, rows, columns }, scale, palette: colors, theme: "light" });
    return target.data;
  };
  const gray = (level: number) => pack(Math.round(level), Math.round(level), Math.round(level));

  test("shows the photo at zero, the color at the scale's end, and beyond it the last color", () => {
    const [nothing, end, beyond, low] = paint([0, 2, 50, -2], 2);
    expect(nothing).toBe(gray(pale(100, "light")));
    expect(end).toBe(colors.colors[2 * ZERO]);
    expect(beyond).toBe(end);
    expect(low).toBe(colors.colors[0]);
  });

  test("marks what isn't a number wherever it is", () => {
    const mark = colors.colors[colorIndex(NaN, scale)];
    expect(paint([0, NaN, 0, 0], 2)[1]).toBe(mark);
    expect(paint([0, NaN, 0, 0], 1)[0]).toBe(mark);
  });

  test("keeps the strongest of what shares a dot: signs don't cancel", () => {
    expect(paint([2, -1, -1, 0], 1, "map")[0]).toBe(colors.colors[2 * ZERO]);
    expect(paint([1, -2, -1, 0], 1, "map")[0]).toBe(colors.colors[0]);
    expect([...paint([1, -2, 0, 2], 4, "map")].slice(0, 4)).toEqual([1, 1, -2, -2].map((value) => colors.colors[colorIndex(value, scale)]));
  });

  test("is the photo alone where that is asked for", () => expect(unpack(paint([2, 2, 2, 2], 1, "photo")[0])).toEqual([100, 100, 100]));

  test("covers more the stronger it is", () => {
    const parts = [0, 0.01, 0.5, 1, 2, 3].map((value) => coverage(value, scale));
    expect(parts).toEqual([...parts].sort((one, other) => one - other));
    expect([parts[0], parts.at(-1), coverage(NaN, scale), coverage(1, { sign: "signed", limit: 0 })]).toEqual([0, 1, 1, 0]);
  });

  test("knows the lightness of gray pictures too", () => expect([...(luminance(Uint8Array.of(5, 6), 0, 1, 2, 1).data as Float32Array)]).toEqual([5, 6]));
});

describe("pictures", () => {
  const picture = { data: Float32Array.of(0, 0, 0, 1, -2, 0, 0, 0, 0, 0, 0, 0), offset: 0, rows: 2, columns: 2, colors: 3 };

  test("are bytes, or numbers about mid-gray", () => {
    expect(unpack(bytePixels({ data: Uint8Array.of(1, 2, 3), offset: 0, rows: 1, columns: 1, colors: 3 })[0])).toEqual([1, 2, 3]);
    expect(unpack(bytePixels({ data: Uint8Array.of(9), offset: 0, rows: 1, columns: 1, colors: 1 })[0])).toEqual([9, 9, 9]);
    const pixels = signedPixels(picture, 2, palette("signed", "orange-blue", "light"));
    expect(unpack(pixels[0])).toEqual([128, 128, 128]);
    expect(unpack(pixels[1])).toEqual([192, 0, 128]);
    expect(pictureLimit(picture)).toBe(2);
  });

  test("turn from channels to colors", () => {
    const turned = channelsLast(Float32Array.of(1, 2, 3, 4, 5, 6), 0, 3, 1, 2);
    expect([...(turned.data as Float32Array)]).toEqual([1, 3, 5, 2, 4, 6]);
  });

  test("are cut to what isn't zero, and never beyond their border", () => {
    expect(extentOf(picture)).toEqual({ row: 0, column: 1, rows: 1, columns: 1 });
    expect(extentOf({ ...picture, data: new Float32Array(12) })).toBeNull();
    const cut = cropped(picture, -1, 1, 2, 5);
    expect([cut.rows, cut.columns, ...(cut.data as Float32Array)]).toEqual([1, 1, 1, -2, 0]);
  });
});

test("sanity checks are read stage by stage, curve by curve", () => {
  const checks = readChecks(
    view(
      "sanity_checks",
      {
        randomized: array(Float32Array.of(1, 2, 3, 4, 10, 20, 30, 40), "stage image row column", 2, 1, 2, 2),
        spearman: array(Float32Array.of(1, 0.1), "stage image", 2, 1),
        spearman_signed: array(Float32Array.of(1, 0.2), "stage image", 2, 1),
        ssim: array(Float32Array.of(1, NaN), "stage image", 2, 1),
        fraction: array(Float32Array.of(0, 0.5, 1), "step", 3),
        deletion: array(Float32Array.of(9, 5, 1, 9, 8, 1), "curve image step", 2, 1, 3),
        insertion: array(Float32Array.of(1, 8, 9, 1, 2, 9), "curve image step", 2, 1, 3),
        deletion_area: array(Float32Array.of(5, 6, 7, 8), "fill curve image", 2, 2, 1),
        varied: array(Float32Array.of(1, 1, 1, 1), "variant image row column", 1, 1, 2, 2),
        sensitivity: array(Float32Array.of(0.8), "variant image", 1, 1),
        edge_similarity: array(Float32Array.of(0.3), "image", 1),
      },
      { stages: ["original", "fc"], curves: ["map", "random"], variants: ["another seed"], measure: "probability", findings: [{ check: "randomization", level: "good", text: "it forgets" }, { check: "fill", level: "doubt", text: "mind" }], cautions: ["No check proves it."] },
    ),
  );
  expect(checks.stages.map(({ name, spearman, limit }) => [name, Number(spearman.toFixed(3)), Math.round(limit)])).toEqual([["original", 1, 4], ["fc", 0.1, 40]]);
  expect(checks.deletion.map(({ name, values, area }) => [name, [...Array.from(values)], area])).toEqual([["map", [9, 5, 1], 5], ["random", [9, 8, 1], 6]]);
  expect(Number.isNaN(checks.insertion[0].area)).toBe(true);
  expect([checks.variants[0].name, checks.variants[0].similarity]).toEqual(["another seed", expect.closeTo(0.8, 5)]);
  expect([verdict(checks), verdict(checks, "randomization"), verdict(checks, "edges")]).toEqual(["doubt", "good", "neutral"]);
  expect(readChecks(view("sanity_checks", {})).stages).toEqual([]);
});

test("which class is most probable where is a map of names", () => {
  const found = classMap({ data: Int32Array.of(7, 7, 3, 7), offset: 0, rows: 2, columns: 2 }, (rank) => (rank === 1 ? "#102030" : "#405060"));
  expect(found?.shown).toEqual([{ number: 7, part: 0.75, color: pack(16, 32, 48) }, { number: 3, part: 0.25, color: pack(64, 80, 96) }]);
  expect([...(found?.picture.data as Uint8Array)].slice(6, 9)).toEqual([64, 80, 96]);
  expect(classMap(null, () => "#000000")).toBeNull();
});

test("projections are cut to their windows, and units without patches have none", () => {
  const made = view(
    "projections",
    {
      projection: array(Float32Array.from({ length: 24 }, (_, at) => at), "unit rank row column channel", 1, 2, 2, 2, 3),
      patch: array(new Uint8Array(24), "unit rank row column color", 1, 2, 2, 2, 3),
      value: array(Float32Array.of(5, 0), "unit rank", 1, 2),
      image: array(Int32Array.of(11, -1), "unit rank", 1, 2),
      window: array(Int32Array.of(0, 0, 2, 1, 0, 0, 0, 0), "unit rank side", 1, 2, 4),
    },
    { image_names: { 11: "zebra.jpg" } },
  );
  const [only, ...none] = readProjections(made, 0);
  expect(none).toEqual([]);
  expect([only.value, only.image, only.name, only.projection.rows, only.projection.columns]).toEqual([5, 11, "zebra.jpg", 2, 1]);
  expect([...(only.projection.data as Float32Array)]).toEqual([0, 1, 2, 6, 7, 8]);
  expect(projectionsRequest({ address: "conv" }, [3], "gradient", 2)).toEqual({ method: "projections", target: "conv:3", parameters: { rule: "gradient", ranks: 9 }, revision: 2 });
  expect(projectionsRequest({ address: "conv" }, [0, 1], "deconvnet", 2, 1)).toEqual({ method: "projections", target: "conv", parameters: { rule: "deconvnet", ranks: 1, units: "0,1" }, revision: 2 });
});

describe("optimized images", () => {
  test("are never asked for without something natural", () => {
    const choice = { preset: "lucid", mined: false, images: [] };
    expect(optimizedRequest({ address: "conv" }, [3], choice)).toBeNull();
    expect(optimizedRequest({ address: "conv" }, [3], { ...choice, images: [{ id: 8 }] })).toEqual({ method: "feature_visualization", target: "conv:3", images: [8], parameters: { preset: "lucid" } });
    expect(optimizedRequest({ address: "conv" }, [3, 4], { ...choice, preset: "", mined: true })).toEqual({ method: "feature_visualization", target: "conv", parameters: { units: "3,4" } });
  });

  test("come with the natural ones that aren't blank, finished or not", () => {
    const [first, second] = readOptimized(
      view(
        "feature_visualization",
        {
          picture: array(new Uint8Array(24), "unit row column color", 2, 2, 2, 3),
          natural_picture: array(Uint8Array.from({ length: 48 }, (_, at) => (at < 12 ? at : 0)), "unit rank row column color", 2, 2, 2, 2, 3),
          score: array(Float32Array.of(4, NaN), "unit", 2),
          history: array(Float32Array.of(1, 2, 3, 4), "unit step", 2, 2),
        },
        { names: ["conv:3", "conv:4"] },
      ),
    );
    expect([first.name, first.score, first.naturalScore, first.natural.length, [...Array.from(first.history)]]).toEqual(["conv:3", 4, null, 1, [1, 2]]);
    expect([second.score, second.natural.length]).toEqual([null, 0]);
  });

  test("an inverted code has its photo and its error", () => {
    const found = readInverted(view("inversion", { picture: array(new Uint8Array(12), "image row column color", 1, 2, 2, 3), error: array(Float32Array.of(0.25), "image", 1) }));
    expect([found?.error, found?.original, found?.picture.rows]).toEqual([0.25, null, 2]);
  });
});

describe("what a network is blind to", () => {
  test("is read change by change and layer by layer", () => {
    const [up] = readInvariance(
      view(
        "invariance",
        {
          amount: array(Float32Array.of(-1, 0, 1), "transform step", 1, 3),
          relative: array(Float32Array.of(1, 0, 1, 0.5, 0, 0.5), "image layer transform step", 1, 2, 1, 3),
          probability: array(Float32Array.of(0.1, 0.9, 0.2), "image transform step", 1, 1, 3),
          example: array(new Uint8Array(36), "image transform example row column color", 1, 1, 3, 2, 2, 3),
        },
        { transforms: ["vertical"], layers: ["conv1", "fc"], amount_units: ["pixels"] },
      ),
    );
    expect([up.name, up.unit, up.examples.length, up.distance.map(({ layer, values }) => [layer, values[0]])]).toEqual(["vertical", "pixels", 3, [["conv1", 1], ["fc", 0.5]]]);
  });

  test("and part by part", () => {
    const [eye] = readCorrespondence(
      view(
        "correspondence",
        { distance: array(Float32Array.of(0.1, 0.2), "part layer", 1, 2), random: array(Float32Array.of(0.4, 0.5, 0.6, 0.7), "part layer draw", 1, 2, 2), smaller: array(Int32Array.of(0, 1), "part layer", 1, 2) },
        { parts: ["eye"], layers: ["conv", "fc"] },
      ),
    );
    expect(eye.layers[1]).toEqual({ layer: "fc", distance: expect.closeTo(0.2, 6), random: [expect.closeTo(0.6, 6), expect.closeTo(0.7, 6)], smaller: 1 });
  });

  test("parts are written as the library reads them, and back", () => {
    const parts = [{ name: "left eye", boxes: [{ row: 1, column: 2, rows: 3, columns: 4 }, { row: 5, column: 6, rows: 7, columns: 8 }] }];
    expect(writeParts(parts)).toBe("left eye: 1,2,3,4; 5,6,7,8");
    expect(readParts(writeParts(parts), 2)).toEqual(parts);
    expect(readParts("nose: 1,2,3,4", 2)[0].boxes).toHaveLength(2);
    expect(readParts("nonsense / : / a: 1,2 / b: 1,2,0,4", 2)).toEqual([]);
    expect(writeParts([{ name: "a:b/c;", boxes: [parts[0].boxes[0]] }])).toBe("a b c: 1,2,3,4");
    expect(movedBox({ row: 0, column: 5, rows: 4, columns: 4 }, -3, 9, [8, 10])).toEqual({ row: 0, column: 6, rows: 4, columns: 4 });
  });
});

describe("blocks of pictures", () => {
  const made = (units: readonly number[], soFar = false): UnitPictures<string> => ({ picture: `p${units[0]}`, natural: null, units, side: 8, ranks: 1, soFar });
  const settle = () => new Promise((resolve) => setTimeout(resolve));

  test("are the same whichever unit is looked at, in the order of the eye", async () => {
    expect(blocksOf([33, 1, 40, 2], 16)).toEqual([2, 0]);
    const asked: number[][] = [];
    const store = new BlockStore<string>(async (units) => (asked.push([units[0], units.length]), made(units)), () => undefined);
    store.want([35, 3], 36);
    await settle();
    await settle();
    expect(asked).toEqual([[32, 4], [0, 16]]);
    expect(store.find(35)).toMatchObject({ row: 3 });
    store.want([35, 3], 36);
    await settle();
    expect(asked).toHaveLength(2);
  });

  test("wait for their start, show what there is so far, and are dropped when nobody looks", async () => {
    let started = false;
    const aborted = vi.fn();
    const store = new BlockStore<string>((units, signal, soFar) => {
      if (!started) return Promise.resolve(null);
      soFar(made(units, true));
      return new Promise((_, reject) => signal.addEventListener("abort", () => (aborted(), reject(new DOMException("", "AbortError")))));
    }, () => undefined);
    store.want([1], 64);
    await settle();
    expect([store.absent.size, store.find(1)]).toEqual([1, null]);
    started = true;
    store.retry([1]);
    await settle();
    expect(store.find(1)?.pictures.soFar).toBe(true);
    store.want([40], 64);
    await settle();
    expect(aborted).toHaveBeenCalledOnce();
    expect([store.find(1), store.failure]).toEqual([null, null]);
    store.stop();
  });

  test("say what went wrong, and ask again only when told to", async () => {
    let asked = 0;
    const store = new BlockStore<string>(async () => {
      asked++;
      throw new Error("no");
    }, () => undefined);
    store.want([1, 40], 64);
    await settle();
    store.want([1, 40], 64);
    await settle();
    expect([asked, store.failure?.message]).toEqual([1, "no"]);
    store.retry([1]);
    await settle();
    expect(asked).toBe(2);
  });
});
