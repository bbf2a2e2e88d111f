import { describe, expect, test } from "vitest";

import { COLORS, NAN, palette } from "../src/paint/colormap";
import { fittingTile, sheetLayout, sliceGrid, stepInGrid, tileAt, tileLeft, tileTop, visibleRows } from "../src/paint/layout";
import { areaMean, colorLevel, fit, paintColor, paintPlane } from "../src/paint/planes";
import { cellAt, cellValues, paintTile, type TileSet } from "../src/paint/tile";
import { colorIndex, rangeOf } from "../src/paint/scale";

const table = palette("signed", "orange-blue", "light");
const scale = { sign: "signed" as const, limit: 1 };
const at = (value: number) => table.colors[colorIndex(value, scale)];
const blank = (width: number, height = width) => ({ data: new Uint32Array(width * height), width });

describe("a plane", () => {
  test("enlarged, holds exactly the colors of its values, nearest neighbor", () => {
    const data = [-1, -0.5, 0, 0.25, 0.5, 1, 0.1, -0.1, 0.9];
    const target = blank(96);
    paintPlane(target, { left: 0, top: 0, width: 96, height: 96 }, { data, offset: 0, rows: 3, columns: 3 }, scale, table);
    for (let row = 0; row < 96; row++) {
      for (let column = 0; column < 96; column++) {
        expect(target.data[row * 96 + column]).toBe(at(data[3 * Math.floor(row / 32) + Math.floor(column / 32)]));
      }
    }
  });

  test("reduced, is the mean of the values, not of the colors", () => {
    const data = [1, -1, 1, -1, 0.5, 0.5, 0.5, 0.5];
    const target = blank(2, 1);
    paintPlane(target, { left: 0, top: 0, width: 2, height: 1 }, { data, offset: 0, rows: 2, columns: 4 }, scale, table);
    expect([...target.data]).toEqual([at(0.25), at(0.25)]);
  });

  test("reduced rows first, it is the box means", () => {
    const [rows, columns, height, width] = [23, 31, 9, 14];
    const data = Float32Array.from({ length: rows * columns }, () => 2 * Math.random() - 1);
    const plane = { data, offset: 0, rows, columns };
    const target = blank(width, height);
    paintPlane(target, { left: 0, top: 0, width, height }, plane, scale, table);
    for (let line = 0; line < height; line++) {
      for (let dot = 0; dot < width; dot++) {
        const mean = areaMean(plane, 0, (line * rows) / height, ((line + 1) * rows) / height, (dot * columns) / width, ((dot + 1) * columns) / width);
        const near = [-1e-9, 0, 1e-9].map((by) => at(mean + by));
        expect(near).toContain(target.data[line * width + dot]);
      }
    }
  });

  test("fractional boxes weigh their borders", () => {
    const plane = { data: [0, 3, 6], offset: 0, rows: 1, columns: 3 };
    expect(areaMean(plane, 0, 0, 1, 0, 1.5)).toBeCloseTo(1);
    expect(areaMean(plane, 0, 0, 1, 1.5, 3)).toBeCloseTo(5);
  });

  test("no NaN is averaged away", () => {
    const data = new Float32Array(100).fill(0.5);
    data[37] = NaN;
    const target = blank(2);
    paintPlane(target, { left: 0, top: 0, width: 2, height: 2 }, { data, offset: 0, rows: 10, columns: 10 }, scale, table);
    expect([...target.data].filter((color) => color === table.colors[NAN])).toHaveLength(1);
  });

  test("a short last row leaves the background", () => {
    const target = blank(4);
    paintPlane(target, { left: 0, top: 0, width: 4, height: 4 }, { data: [1, 1, 1], offset: 0, rows: 2, columns: 2, count: 3 }, scale, table);
    expect(target.data[15]).toBe(0);
    expect(target.data[12]).toBe(at(1));
  });

  test("paints nothing outside its rectangle", () => {
    const target = blank(10);
    paintPlane(target, { left: 3, top: 2, width: 4, height: 5 }, { data: [1], offset: 0, rows: 1, columns: 1 }, scale, table);
    expect([...target.data].filter(Boolean)).toHaveLength(20);
  });
});

test("in color, zero is mid-gray and both signs reach their end", () => {
  expect([-2, -1, 0, 1, 2].map((value) => colorLevel(value, 1))).toEqual([0, 0, 128, 255, 255]);
  expect(colorLevel(5, 0)).toBe(128);
  const target = blank(1);
  paintColor(target, { left: 0, top: 0, width: 1, height: 1 }, { data: [1, 0, -1], offset: 0, rows: 1, columns: 1 }, 1, 1, table);
  expect(target.data[0]).toBe(0xff0080ff);
  paintColor(target, { left: 0, top: 0, width: 1, height: 1 }, { data: [1, NaN, -1], offset: 0, rows: 1, columns: 1 }, 1, 1, table);
  expect(target.data[0]).toBe(table.colors[NAN]);
});

test("cells are equally large when that wastes little", () => {
  expect(fit(7, 7, 64)).toEqual({ left: 0, top: 0, width: 63, height: 63 });
  expect(fit(13, 13, 25)).toMatchObject({ width: 25 });
  expect(fit(2, 4, 64)).toEqual({ left: 0, top: 16, width: 64, height: 32 });
  expect(sliceGrid(9, 64, 3)).toMatchObject({ columns: 3, rows: 3, slice: 18 });
});

function tiles(units: number, planes: number, size: number): TileSet {
  const data = Float32Array.from({ length: units * planes * size * size }, () => 2 * Math.random() - 1);
  return {
    mode: "planes", data, stride: planes * size * size, planes, rows: size, columns: size, count: size * size,
    units: Int32Array.from({ length: units }, (_, unit) => unit), channelStride: planes, range: rangeOf(data),
  };
}

test.each([[1, 3, 64], [9, 3, 64], [4, 5, 57], [16, 1, 40]])("what is painted of %i slices is what the pointer reads", (planes, size, side) => {
  const set = tiles(3, planes, size);
  const target = blank(side);
  paintTile(target, 0, 0, side, set, 2, scale, table);
  let painted = 0;
  for (let top = 0; top < side; top++) {
    for (let left = 0; left < side; left++) {
      const cell = cellAt(set, side, left + 0.5, top + 0.5);
      const color = target.data[top * side + left];
      if (cell) expect(color).toBe(at(cellValues(set, 2, cell)[0]));
      else expect(color).toBe(0);
      painted += Number(color !== 0);
    }
  }
  expect(painted / side ** 2).toBeGreaterThan(0.5);
});

describe("a sheet", () => {
  const layout = sheetLayout(2048, 64, 760);

  test("places and points agree", () => {
    for (const place of [0, 9, 10, 11, 1000, 2047]) {
      expect(tileAt(layout, tileLeft(layout, place) + 1, tileTop(layout, place) + 63)).toEqual({ place, left: 1, top: 63 });
      expect(tileAt(layout, tileLeft(layout, place) - 1, tileTop(layout, place))).toBeNull();
    }
  });

  test("only rows in the window are drawn", () => {
    const [first, end] = visibleRows(layout, 5000, 600);
    expect(end - first).toBeLessThan(11);
    expect(visibleRows(layout, 0, 600)[0]).toBe(0);
    expect(visibleRows(layout, layout.height - 600, 600)[1]).toBe(layout.rows);
  });

  test("keys stay inside", () => {
    expect(stepInGrid(0, "left", 10, 4)).toBe(0);
    expect(stepInGrid(1, "down", 10, 4)).toBe(5);
    expect(stepInGrid(7, "down", 10, 4)).toBe(9);
    expect(stepInGrid(8, "down", 10, 4)).toBe(8);
    expect(stepInGrid(2, "up", 10, 4)).toBe(2);
    expect(stepInGrid(9, "page-up", 10, 4, 2)).toBe(1);
    expect(stepInGrid(3, "last", 10, 4)).toBe(9);
  });

  test("tiles fit the window when they can", () => {
    const tile = fittingTile(32, 760, 560);
    expect(sheetLayout(32, tile, 760).height).toBeLessThanOrEqual(560);
    expect(fittingTile(2048, 760, 560)).toBe(50);
    expect(fittingTile(1, 760, 560)).toBe(144);
  });

  test.each([[32, 782, 540], [144, 782, 540], [1280, 782, 540], [96, 1600, 900]])("%i fitting tiles leave no gap beside a row of %i px", (count, width, height) => {
    const layout = sheetLayout(count, fittingTile(count, width, height), width);
    const end = tileLeft(layout, layout.columns - 1) + layout.tile;
    expect(width - end).toBeLessThan(4 + layout.columns);
    expect(end).toBeLessThanOrEqual(width);
  });
});

test("tables have a color for every index", () => expect(table.colors).toHaveLength(COLORS));
