// Back to the pixels: what drove an answer and whether to believe it, what a unit would like to see, what a layer kept.

import type { Page } from "@playwright/test";

import { palette } from "../src/paint/colormap";
import { paintOverlayPixels } from "../src/paint/overlay";
import { cellUnder, mapScale, readMap, valueUnder } from "../src/state/attribution";
import { contentWidth, expect, hashOf, listening, painted, settled, STARTING, test as base, violations, viewOf, type Server } from "./convscope";
import { startUnmined } from "./mined";

const PHOTOS = 12;

const test = base.extend<object, { server: Server }>({
  server: [
    // eslint-disable-next-line no-empty-pattern
    async ({}, use) => {
      const server = await startUnmined("small", PHOTOS);
      await use(server);
      await server.stop();
    },
    { scope: "worker", timeout: STARTING },
  ],
});

// An optional extra may be installed and yet not work; that is found out by trying, and told in its row.
test.use({ expected: [/status of 422/] });

async function mined(page: Page, server: Server): Promise<void> {
  const study = async () => (await (await page.request.get(`${server.origin}/api/study`)).json()) as { finished: boolean };
  if ((await study()).finished) return;
  await page.request.post(`${server.origin}/api/study/mine`, { data: {}, headers: { Origin: server.origin } });
  await expect.poll(async () => (await study()).finished).toBe(true);
}

async function open(page: Page, server: Server, hash: string): Promise<void> {
  await page.goto(`${server.origin}/#${hash}`);
  await page.reload();
  await listening(page);
}

const cell = (page: Page, method: string, column: string) => page.locator(`[data-cell="${method}|${column}"]`);

async function here(page: Page, method: string, column: string): Promise<void> {
  await expect(cell(page, method, column)).toHaveAttribute("data-state", "here");
}

test("every map's pixels are its View's numbers, and one mark stands in all of them", async ({ explorer: page, server }) => {
  await open(page, server, "tab=image&image=3&range=own&cell=128&ask=score:0~score:2");
  await here(page, "gradient", "score:2");
  await here(page, "deconvnet", "score:0");
  const view = await viewOf(page, server, "gradient?images=3&objective=score:2");
  const found = readMap(view);
  const scale = mapScale(found, true);
  const side = 128;
  const wanted = new Uint32Array(side * side);
  paintOverlayPixels({ data: wanted, width: side }, { left: 0, top: 0, width: side, height: side }, { mode: "over", photo: found.photo, map: found.map, scale, palette: palette(scale.sign, "orange-blue", "light"), theme: "light" });
  const canvas = cell(page, "gradient", "score:2").locator("canvas").first();
  await expect(canvas).toHaveAttribute("data-drawn", "gradient|score:2|3");
  const shown = () => canvas.evaluate((element: HTMLCanvasElement) => [...new Uint32Array(element.getContext("2d")!.getImageData(0, 0, element.width, element.height).data.buffer)]);
  await expect(async () => expect(await shown()).toEqual([...wanted])).toPass();

  // In the middle of a cell, so that a fraction of a pixel in the layout is no other cell.
  const point = { down: 81 / side, across: 41 / side };
  const position = { x: 41, y: 81 };
  const { row, column } = cellUnder(found.map, point);
  const maps = page.locator("[data-cell] .map");
  const marks = page.locator("[data-cell] .map .ring");
  const told = async () => Number((await page.locator("[data-told]").getAttribute("data-told"))?.replace("−", "-"));
  // Every map that will come is there, and none of them moves away from under the pointer.
  await settled(page);
  await expect(async () => {
    await canvas.hover({ position });
    const count = await maps.count();
    expect(count).toBeGreaterThan(1);
    await expect(marks).toHaveCount(count, { timeout: 5_000 });
    // The number stands in the cell, and in full beside the large map.
    await expect(page.locator(".told")).toContainText(`row ${row}, column ${column}`, { timeout: 5_000 });
  }).toPass();
  await canvas.click({ position });
  await expect(page.locator("[data-map-panel]")).toHaveAttribute("data-map-panel", "gradient|score:2");
  await settled(page);
  await expect(async () => {
    await canvas.hover({ position });
    expect(Math.abs((await told()) - valueUnder(found.map, point))).toBeLessThan(1e-5);
  }).toPass();
});

test("by keyboard: another class, a larger map, its checks, and the address that holds it all", async ({ explorer: page, server }) => {
  await page.keyboard.press("i");
  await expect(page.locator("[data-matrix]")).toHaveAttribute("data-matrix", "3");
  await page.getByRole("button", { name: "Ask about another class" }).click();
  await page.getByRole("button", { name: "loss", exact: true }).click();
  await expect(page.locator("[data-matrix]")).toHaveAttribute("data-matrix", "4");
  await here(page, "gradient", "loss");
  await page.locator("body").press("ArrowRight");
  await page.locator("body").press("ArrowDown");
  await expect(page.locator("[data-map-panel]")).toHaveAttribute("data-map-panel", /^grad_cam\|/);
  await page.locator("body").press("ArrowUp");
  await page.locator("body").press("x");
  await page.locator("body").press("z");
  await expect(page.locator(".large[data-map-panel]")).toHaveAttribute("data-map-panel", /^gradient\|/);
  await expect(page.locator("[data-stages]")).toBeVisible();
  await expect(page.locator("[data-finding]").first()).toBeVisible();
  await expect.poll(() => page.evaluate(() => location.hash)).toMatch(/large=1.*checked=gradient/);
  const hash = await page.evaluate(() => location.hash);
  await open(page, server, hash.slice(1));
  await expect(page.locator("[data-stages]")).toBeVisible();
  await page.locator("body").press("Escape");
  await expect(page.locator("[data-matrix]")).toHaveAttribute("data-matrix", "4");
  await page.locator("body").press("v");
  await expect(page.getByRole("radio", { name: "map", exact: true })).toHaveAttribute("aria-checked", "true");
});

test("what isn't class-sensitive says so, what takes long waits, what can't be is gray with the reason", async ({ explorer: page, server }) => {
  await open(page, server, "tab=image&image=1&ask=score:0");
  await here(page, "guided_backprop", "score:0");
  await expect(page.locator('[data-row="guided_backprop"]')).toContainText("not class-sensitive");
  await expect(page.locator('[data-row="gradient"]')).not.toContainText("not class-sensitive");
  await page.locator('[data-row="occlusion"]').getByRole("button", { name: "Compute" }).click();
  await here(page, "occlusion", "score:0");
  await cell(page, "occlusion", "score:0").locator("canvas").first().click();
  await expect(page.locator('[data-section="image-occlusion"] figure')).toHaveCount(3);
  // A unit of the first layer has no ReLU before it: its deconvnet would be the gradient.
  await open(page, server, "unit=edges:2&folded=kernel~map~step~statistics~classes");
  await expect(page.locator('[data-refused="deconvnet"]')).toContainText("ReLU");
  await page.getByRole("radio", { name: "gradient", exact: true }).click();
  await expect(page.locator('[data-section="projections"] canvas[data-drawn^="gradient|edges:2"]')).toBeVisible();
});

test("a unit: patches and their projections, an optimized image beside natural ones", async ({ explorer: page, server }) => {
  await mined(page, server);
  await open(page, server, "unit=mixtures:9&folded=kernel~map~step~statistics~classes");
  await expect(page.locator("[data-projections]")).toHaveAttribute("data-projections", /^[1-9]$/);
  await page.locator('[data-section="optimized"] [data-start]').click();
  await expect(page.locator("[data-optimized]")).toHaveAttribute("data-optimized", "mixtures:9");
  await expect(page.locator("[data-optimized] figure")).toHaveCount(2);
  await expect(page.locator("[data-optimized] li")).not.toHaveCount(0);
  await expect(page.locator("[data-score]")).not.toHaveText("");
  // What was computed is there again; nothing begins by itself for another unit.
  await page.reload();
  await expect(page.locator("[data-optimized]")).toHaveAttribute("data-optimized", "mixtures:9");
  await page.locator("body").press("l");
  await expect(page.locator("[data-address]")).toHaveText("mixtures:10");
  // What was begun goes on while the page is loaded again, which then waits for it.
  const begun = page.waitForResponse((response) => response.status() === 202);
  await page.locator('[data-section="optimized"] [data-start]').click();
  await begun;
  await expect.poll(() => hashOf(page)).toContain("unit=mixtures:10");
  await page.reload();
  await expect(page.locator("[data-optimized]")).toHaveAttribute("data-optimized", "mixtures:10");
});

test("sheets of projections and of optimized images", async ({ explorer: page, server }) => {
  await mined(page, server);
  await open(page, server, "unit=mixtures:0&folded=kernel~map~step~statistics~classes~projections~optimized&filter=0-15");
  await page.locator("body").press("7");
  await painted(page, "projections|mixtures");
  await page.locator("body").press("8");
  await page.locator('[data-start="sheet"]').click();
  await painted(page, "optimized|mixtures");
});

test("what a layer kept, what changes nothing, and the same part in several images", async ({ explorer: page, server }) => {
  await open(page, server, "tab=image&image=2&unit=edges:0");
  await page.locator("body").press("2");
  await page.locator("[data-start]").click();
  await expect(page.locator("[data-inverted]")).toHaveAttribute("data-inverted", "edges");
  await page.locator("body").press("3");
  await page.locator("[data-start]").click();
  await expect(page.locator("[data-change]").first()).toBeVisible();
  await page.locator("body").press("4");
  const box = page.locator("[data-part-box]").first();
  const before = await box.getAttribute("data-part-box");
  expect(before).not.toBeNull();
  const photo = page.getByRole("application").first();
  await photo.focus();
  await expect(photo).toBeFocused();
  await page.keyboard.press("Shift+ArrowDown");
  await expect(box).not.toHaveAttribute("data-part-box", String(before));
  await page.getByRole("button", { name: "Compare" }).click();
  await expect(page.locator("[data-part]").first()).toContainText("random");
  await expect.poll(() => hashOf(page)).toContain("look=correspondence");
});

for (const colorScheme of ["light", "dark"] as const) {
  test.describe(colorScheme, () => {
    test.use({ colorScheme });

    test("for everybody, at every width", async ({ explorer: page, server }) => {
      await mined(page, server);
      await open(page, server, "tab=image&image=1&ask=score:0~loss&checked=gradient|score:0");
      await here(page, "gradient", "score:0");
      await here(page, "deconvnet", "loss");
      await expect(page.locator("[data-finding]").first()).toBeVisible();
      expect(await violations(page)).toEqual([]);
      await page.setViewportSize({ width: 800, height: 900 });
      expect(await violations(page)).toEqual([]);
      expect(await contentWidth(page)).toBeLessThanOrEqual(800);
      await open(page, server, "tab=image&image=1&look=correspondence");
      await expect(page.locator("[data-part-box]").first()).toBeVisible();
      expect(await violations(page)).toEqual([]);
    });
  });
}

test("the whole matrix is handed over as code before anyone has computed it", async ({ explorer: page, server }) => {
  await open(page, server, "tab=image&image=2&ask=score:0~score:2");
  await page.locator(".tools").getByRole("button", { name: "Copy as code" }).click();
  const written = page.locator(":popover-open code");
  await expect(written.first()).toContainText('network.view("attribution_matrix"');
  await expect(written.last()).toContainText("convscope view attribution_matrix");
  await expect(written.last()).toContainText("--pick 2");
});
