import { describe, expect, test } from "vitest";

import { DEFAULTS, isStep, readHash, writeHash, type PageState } from "../src/state/url";

/** A value of every control that differs from its default. */
const OTHER: PageState = {
  network: "7c1f0a99ab12",
  tab: "gallery",
  unit: { layer: "layer4.1.relu@1", channel: 37, position: { row: 5, column: 6 } },
  image: 12,
  sheet: "activation_gradients",
  of: "activations",
  component: "row",
  objective: "unit:layer4.1.conv2:37:1,2",
  over: "all",
  sort: "gradient_norm",
  descending: true,
  filter: "norm > 0.5 and ratio <= 1e-3, 0-31 & 100 % # = +~",
  tile: 96,
  scale: "unit",
  clip: true,
  signed: "red-blue",
  positive: "magma",
  photo: "over",
  which: "quantile",
  cut: "mask",
  rank: 3,
  thumb: 96,
  table: true,
  pins: ["conv1:0", "layer1.0.conv1:3:1,2"],
  folded: ["kernel", "step"],
  closed: ["features.3", "blocks.0"],
  spine: false,
  inspector: false,
  theme: "dark",
  projector: "gradient",
  preset: "maco",
  look: "correspondence",
  asked: ["score:281", "loss", "unit"],
  overlay: "map",
  mapScale: "own",
  whole: true,
  cell: 200,
  chosen: "grad_cam|score:281",
  large: true,
  checked: ["gradient|loss", "deconvnet|score:3"],
  started: ["occlusion"],
  camLayer: "features.3",
  among: ["3", "7"],
  parts: "left eye: 12,30,40,40; 14,28,40,40 / nose: 50,60,30,30",
  run: "lenet5-2",
  step: 128,
  beside: "lenet5@64",
  part: "lesson",
  trained: { layer: "block1.conv2", channel: 3, position: null },
  panels: ["weights", "displacement"],
  size: "large",
  picture: 2,
  sample: 7,
  log: true,
};

test("the defaults need no address", () => expect(writeHash(structuredClone(DEFAULTS) as PageState)).toBe(""));

test("every control round-trips, alone", () => {
  for (const name of Object.keys(OTHER) as (keyof PageState)[]) {
    expect(OTHER[name], name).not.toEqual(DEFAULTS[name]);
    const state = { ...(structuredClone(DEFAULTS) as PageState), [name]: OTHER[name] };
    expect(readHash(writeHash(state)), name).toEqual(state);
  }
});

test("all controls round-trip, together and in random halves", () => {
  expect(readHash(`#${writeHash(OTHER)}`)).toEqual(OTHER);
  for (let round = 0; round < 500; round++) {
    const state = structuredClone(DEFAULTS) as PageState;
    for (const name of Object.keys(OTHER) as (keyof PageState)[]) {
      if (Math.random() < 0.5) Object.assign(state, { [name]: OTHER[name] });
    }
    const hash = writeHash(state);
    expect(readHash(hash)).toEqual(state);
    expect(writeHash(readHash(hash))).toBe(hash);
    // The browser must keep the hash as it is written.
    expect(new URL(`http://127.0.0.1/#${hash}`).hash.slice(1)).toBe(hash);
  }
});

test("an address is legible", () => {
  const state = { ...(structuredClone(DEFAULTS) as PageState), unit: OTHER.unit, sort: "norm" };
  expect(writeHash(state)).toBe("unit=layer4.1.relu@1:37:5,6&sort=norm");
});

test("filters of any text round-trip", () => {
  for (const filter of ["%", "%zz", "a&b=c", "ü→日本", "1+1", " ", "#", "\u0000"]) {
    const state = { ...(structuredClone(DEFAULTS) as PageState), filter };
    expect(readHash(writeHash(state)).filter).toBe(filter);
  }
});

describe("a hash from anywhere", () => {
  test.each([
    "unit=:::&image=-1&show=nothing&tile=99999999999&sort=<script>&pins=~~x~conv1&clip=2&theme=blue&network=XYZ",
    "%%%=%%%&unit", "=&=&=", "#####", "a".repeat(10_000),
  ])("gives a usable state: %#", (hash) => {
    const { tile, ...state } = readHash(hash);
    expect(state).toEqual((({ tile: _, ...rest }) => rest)(DEFAULTS));
    expect(tile).toBeLessThanOrEqual(256);
  });

  test("keeps at most four pins", () => expect(readHash(`pins=${Array.from({ length: 9 }, (_, at) => `c:${at}`).join("~")}`).pins).toHaveLength(4));
});

test("going to another unit is a step back can undo; resizing tiles is not", () => {
  const state = structuredClone(DEFAULTS) as PageState;
  expect(isStep(state, { ...state, unit: { layer: "a", channel: 1, position: null } })).toBe(true);
  expect(isStep(state, { ...state, unit: { ...state.unit, position: { row: 1, column: 1 } } })).toBe(false);
  expect(isStep(state, { ...state, tile: 32 })).toBe(false);
});
