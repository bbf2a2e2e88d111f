// What units respond to: mined from the page, looked at, sorted, opened on whole images; each picture its own unit's.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Page } from "@playwright/test";

import { arrayOf, type View } from "../src/api/view";
import { blockLeft, blockTop, cellCorner, lineBlocks, tileBlocks } from "../src/paint/blocks";
import { sheetLayout, tileLeft, tileTop } from "../src/paint/layout";
import { contentWidth, expect, hashOf, nodeCount, painted, settled, STARTING, test as base, violations, viewOf, visit, watch, type Server } from "./convscope";
import { startUnmined } from "./mined";

const PHOTOS = 24;
const SLOW_PHOTOS = 640;

/** Everything here is mined once; what the page of the first tests does is a story of its own. */
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

interface Study {
  done: number;
  images: number;
  finished: boolean;
  job: string | null;
}

async function study(page: Page, server: Server): Promise<Study> {
  return (await (await page.request.get(`${server.origin}/api/study`)).json()) as Study;
}

/** Mined already, or now: every test can run alone. */
async function mined(page: Page, server: Server): Promise<void> {
  if ((await study(page, server)).finished) return;
  await page.request.post(`${server.origin}/api/study/mine`, { data: {}, headers: { Origin: server.origin } });
  await expect.poll(async () => (await study(page, server)).finished).toBe(true);
}

const open = async (page: Page, server: Server, hash: string) => {
  await mined(page, server);
  await visit(page, server, hash);
};

/** One unit's patch of a rank, as the server alone draws it, and the same square of the page's canvas. */
async function compare(page: Page, canvas: string, query: string, rank: number, square: { left: number; top: number; side: number }) {
  return page.evaluate(
    async ([selector, path, place, { left, top, side }]) => {
      const shown = document.querySelector<HTMLCanvasElement>(selector)?.getContext("2d")?.getImageData(left, top, side, side).data;
      const picture = await createImageBitmap(await (await fetch(path)).blob());
      const own = new OffscreenCanvas(side, side).getContext("2d");
      if (!own || !shown) throw new Error("nothing to compare");
      own.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--void");
      own.fillRect(0, 0, side, side);
      const size = picture.height;
      own.imageSmoothingQuality = "medium";
      own.drawImage(picture, place * size, 0, size, size, 0, 0, side, side);
      const wanted = own.getImageData(0, 0, side, side).data;
      const differences = Array.from(wanted, (level, at) => Math.abs(level - shown[at]));
      return {
        difference: Math.max(...differences),
        mean: differences.reduce((sum, each) => sum + each, 0) / differences.length,
        variety: new Set(wanted).size,
      };
    },
    [canvas, `/api/patches?${query}`, rank, square] as const,
  );
}

test("a first study, by keyboard: what it would do, mining, patches, what was left out", async ({ browser }) => {
  const own = await startUnmined("small", PHOTOS);
  const page = await (await browser.newContext()).newPage();
  watch(page);
  await page.addInitScript(() => localStorage.setItem("convscope.tour", "seen"));
  await page.goto(own.link);
  await painted(page);
  // An image that goes bad after the session was opened.
  writeFileSync(join(own.photos, "zebra", "7.bmp"), "not an image at all");
  await page.keyboard.press("6");
  await expect(page.getByText("Nothing was mined yet")).toBeVisible();
  await expect(page.getByText(`once over all ${PHOTOS} images`)).toBeVisible();
  await expect(page.getByRole("region", { name: "Or in a shell" })).toContainText("convscope mine ");
  expect(await violations(page)).toEqual([]);
  await page.getByRole("button", { name: "Start mining" }).focus();
  await page.keyboard.press("Enter");
  await painted(page, "top_patches|edges");
  await expect.poll(async () => (await study(page, own)).finished).toBe(true);
  // What was skipped stands in the line that told of the progress, in another place.
  await expect(page.locator("[data-mining-strip]").getByRole("button", { name: "Cancel" })).toHaveCount(0);
  await settled(page);
  await page.getByRole("button", { name: "1 skipped" }).click();
  const skipped = page.getByRole("list", { name: "Images that couldn't be used" });
  await expect(skipped).toContainText("7.bmp");
  await page.keyboard.press("Escape");
  await expect(skipped).toBeHidden();
  // A layer that has no weights of its own wasn't mined; the way to one that was is a button.
  await page.goto(`${own.origin}/#unit=relu:0&show=top_patches`);
  await page.reload();
  await expect(page.getByText("relu wasn't mined")).toBeVisible();
  await page.getByRole("main").getByRole("button", { name: "Go to edges" }).click();
  await painted(page, "top_patches|edges");
  await page.close();
  await own.stop();
});

test("after sorting and filtering each picture is still its own unit's", async ({ explorer: page, server }) => {
  await open(page, server, "unit=mixtures:0&show=top_patches&tile=64&sort=maximum&descending=1&filter=maximum+%3E+0.05+and+not+3&spine=0");
  await painted(page, "top_patches|mixtures");
  const view = await viewOf(page, server, "top_patches?target=mixtures");
  const maximum = arrayOf(view, "maximum").data;
  const units = [...maximum.keys()].filter((unit) => maximum[unit] > 0.05 && unit !== 3).sort((one, other) => maximum[other] - maximum[one] || one - other);
  expect(units.length).toBeGreaterThan(12);
  await settled(page);
  const layout = sheetLayout(units.length, 64, await page.getByRole("grid").evaluate((element) => element.clientWidth));
  for (const place of [0, 1, 2, 7, units.length - 1]) {
    const square = { left: tileLeft(layout, place), top: tileTop(layout, place), side: 64 };
    const query = `layer=mixtures&which=top&units=${units[place]}&ranks=0&side=64&mode=crop`;
    await expect(async () => {
      const { difference, variety } = await compare(page, "canvas[data-sheet]", query, 0, square);
      expect(difference, `unit ${units[place]} at place ${place}`).toBeLessThanOrEqual(2);
      expect(variety).toBeGreaterThan(4);
    }).toPass();
  }
  await page.getByRole("grid").click({ position: { x: tileLeft(layout, 3) + 10, y: tileTop(layout, 3) + 10 } });
  await expect(page.locator("[data-address]")).toHaveText(`mixtures:${units[3]}`);
});

test("nine of each unit where there is room, and the other kinds", async ({ explorer: page, server }) => {
  for (const [which, cut] of [["top", "crop"], ["bottom", "context"], ["quantile", "mask"]] as const) {
    await open(page, server, `unit=edges:7&show=top_patches&tile=98&which=${which}&cut=${cut}&spine=0`);
    await painted(page, "top_patches|edges");
    await settled(page);
    const layout = sheetLayout(8, 98, await page.getByRole("grid").evaluate((element) => element.clientWidth));
    const blocks = tileBlocks(layout, 9);
    const [across, down] = cellCorner(blocks, 4);
    const square = { left: blockLeft(blocks, 2) + across, top: blockTop(blocks, 2) + down, side: blocks.cell };
    const query = `layer=edges&which=${which}&units=2&ranks=0-8&side=32&mode=${cut}`;
    // Photos travel with loss, which differs with what is beside them in the same picture.
    await expect(async () => {
      const { mean, variety } = await compare(page, "canvas[data-sheet]", query, 4, square);
      expect(mean, which).toBeLessThan(6);
      expect(variety).toBeGreaterThan(8);
    }).toPass();
  }
});

test("by class, dead, and by what is known beside the weights", async ({ explorer: page, server }) => {
  await open(page, server, "unit=mixtures:0&show=top_patches&filter=dead");
  await painted(page, "top_patches|mixtures");
  const view = await viewOf(page, server, "top_patches?target=mixtures");
  const dead = [...arrayOf(view, "positive_fraction").data].filter((part) => part === 0).length;
  expect(dead).toBeGreaterThan(0);
  await expect(page.getByText(`${dead} of 40 units`)).toBeVisible();
  await page.locator("#filter").fill("class contains zebra");
  const [index, count] = [arrayOf(view, "class_index"), arrayOf(view, "class_count")];
  const names = view.meta.class_names as Record<string, string>;
  const zebra = [...Array(40).keys()].filter((unit) => {
    const places = index.shape[1];
    const most = count.data[unit * places];
    return [...Array(places).keys()].some((place) => count.data[unit * places + place] === most && names[index.data[unit * places + place]] === "zebra");
  });
  await expect(page.getByText(`${zebra.length} of 40 units`)).toBeVisible();
  // The order of a study holds for weights as well.
  await page.locator("#filter").fill("");
  await page.locator("#filter").press("Escape");
  await page.keyboard.press("1");
  await painted(page, "weights|mixtures");
  await page.getByLabel("Sort").selectOption("selectivity");
  await page.keyboard.press("t");
  const selectivity = arrayOf(view, "selectivity").data;
  const order = [...selectivity.keys()].sort((one, other) => selectivity[one] - selectivity[other] || one - other);
  const rows = page.locator("[data-table] tbody tr");
  await expect(rows.first().locator("th")).toContainText(`mixtures:${order[0]}`);
  await expect(rows.nth(20).locator("th")).toContainText(`mixtures:${order[20]}`);
});

test("a patch opens on its whole image, and leads to how its number came to be", async ({ explorer: page, server }) => {
  await open(page, server, "unit=mixtures:8&show=weights");
  const view = await viewOf(page, server, "top_patches?target=mixtures");
  const at = (name: string, rank: number) => patchNumbers(view, name, 8, rank);
  const patches = page.getByRole("toolbar", { name: "Patches of mixtures:8, top" });
  // What is replaced while it has the focus would lose it.
  await settled(page);
  await patches.getByRole("button").first().focus();
  await page.keyboard.press("ArrowRight");
  await expect(patches.getByRole("button").nth(1)).toBeFocused();
  await page.keyboard.press("ArrowRight");
  await expect(patches.getByRole("button").nth(2)).toBeFocused();
  await page.keyboard.press("Enter");
  const box = page.locator("[data-patch-box]");
  await expect(box).toHaveAttribute("data-patch-box", at("box", 2).join(","));
  await expect.poll(() => hashOf(page)).toContain("rank=2");
  await page.getByRole("button", { name: "Next patch" }).click();
  await expect(box).toHaveAttribute("data-patch-box", at("box", 3).join(","));
  await page.getByRole("button", { name: "Make it the current image" }).click();
  await expect(page.locator("[data-position]")).toHaveAttribute("data-position", `${at("row", 3)},${at("column", 3)}`);
  const names = view.meta.image_names as Record<string, string>;
  await expect(page.locator("[data-image][aria-selected=true]")).toHaveAttribute("title", names[String(at("image", 3))]);
  // The number taken apart on that image, at that place, is the number that was mined (before the rectifier).
  await expect.poll(async () => Number(await page.locator("[data-result]").getAttribute("data-result"))).toBeCloseTo(at("value", 3)[0], 4);
  // Escape gives up what someone waits for before it closes anything.
  await settled(page);
  await page.keyboard.press("Escape");
  await expect(box).toBeHidden();
  // The address follows a moment after the page.
  await expect.poll(() => hashOf(page)).not.toContain("rank=");
  await page.goBack();
  await expect(page.locator("[data-patch-box]")).toBeVisible();
});

function patchNumbers(view: View, name: string, unit: number, rank: number): number[] {
  const { data, shape } = arrayOf(view, name);
  const size = shape[2] ?? 1;
  const start = (unit * shape[1] + rank) * size;
  return [...data.subarray(start, start + size)];
}

test("what is said of a dead unit, with its bound", async ({ explorer: page, server }) => {
  await open(page, server, "unit=mixtures:5&show=weights");
  const facts = page.locator("[data-facts]");
  await expect(facts).toContainText(`Never above 0 in ${PHOTOS} images`);
  const view = await viewOf(page, server, "top_patches?target=mixtures");
  // None of n images: at most 1 − 0.05^(1/n) of images excite it, with 95 % confidence.
  const bound = arrayOf(view, "positive_bound").data[5];
  expect(bound).toBeCloseTo(1 - 0.05 ** (1 / PHOTOS), 2);
  await expect(facts).toContainText(`at least ${(100 * (1 - bound)).toPrecision(3)} %`);
});

test("the gallery: by keyboard, by address, few nodes, each picture its own", async ({ explorer: page, server }) => {
  await open(page, server, "unit=mixtures:6&show=top_patches&thumb=48&sort=maximum&descending=1");
  await painted(page, "top_patches|mixtures");
  await page.keyboard.press("p");
  const wall = page.locator("canvas[data-wall][data-painted='gallery|mixtures']");
  await expect(wall).toBeVisible();
  await expect.poll(() => hashOf(page)).toContain("tab=gallery");
  const grid = page.getByRole("grid");
  await expect(grid).toHaveAttribute("data-gallery", String(40 * 9));
  const maximum = arrayOf(await viewOf(page, server, "top_patches?target=mixtures"), "maximum").data;
  const order = [...maximum.keys()].sort((one, other) => maximum[other] - maximum[one] || one - other);
  await settled(page);
  const blocks = lineBlocks(40, 9, 48, await grid.evaluate((element) => element.clientWidth));
  await grid.evaluate((element) => (element.scrollTop = 0));
  for (const [place, rank] of [[1, 0], [2, 8], [5, 3]]) {
    const [across, down] = cellCorner(blocks, rank);
    const square = { left: blockLeft(blocks, place) + across, top: blockTop(blocks, place) + down, side: blocks.cell };
    const side = blocks.cell <= 64 ? Math.ceil(blocks.cell / 8) * 8 : Math.ceil(blocks.cell / 16) * 16;
    const query = `layer=mixtures&which=top&units=${order[place]}&ranks=0-8&side=${side}&mode=crop`;
    // The canvas follows the scrolling a moment later, and pictures that come into view later still.
    await expect(async () => {
      expect((await compare(page, "canvas[data-wall]", query, rank, square)).difference, `place ${place}`).toBeLessThanOrEqual(2);
    }).toPass();
  }
  expect(await nodeCount(page)).toBeLessThan(2_000);
  const address = page.locator("[data-address]");
  const before = order.indexOf(6);
  await page.keyboard.press("ArrowRight");
  await expect(address).toHaveText(`mixtures:${order[Math.min(39, before + 1)]}`);
  // A unit's best patch is opened when its patches are known; Escape gives up what someone waits for before it closes anything.
  await settled(page);
  await page.keyboard.press("o");
  await expect(page.locator("[data-patch-box]")).toBeVisible();
  await settled(page);
  await page.keyboard.press("Escape");
  await expect(page.locator("[data-patch-box]")).toBeHidden();
  await page.keyboard.press("]");
  await expect(page.locator("[data-layer-title]")).not.toHaveText("mixtures");
  await page.keyboard.press("[");
  await expect(page.locator("[data-layer-title]")).toHaveText("mixtures");
  await settled(page);
  await page.keyboard.press("Escape");
  await painted(page, "top_patches|mixtures");
  // The address follows a moment after the page.
  await expect.poll(() => hashOf(page)).not.toContain("tab=gallery");
  await page.goBack();
  await expect(page.locator("canvas[data-wall]")).toBeVisible();
});

test("first results while it runs, cancel keeps them, and it goes on where it stopped", async ({ browser }) => {
  // So many that a page which takes its time still sees the first results long before the last ones.
  const own = await startUnmined("slow", SLOW_PHOTOS);
  const page = await browser.newPage();
  watch(page);
  await page.addInitScript(() => localStorage.setItem("convscope.tour", "seen"));
  await page.goto(own.link);
  await painted(page);
  await page.keyboard.press("6");
  await page.getByRole("button", { name: "Start mining" }).click();
  const strip = page.locator("[data-mining-strip]");
  await expect(strip).toContainText(`of ${SLOW_PHOTOS} images`);
  await painted(page, "top_patches|edges");
  const before = await study(page, own);
  expect([before.done > 0, before.done < before.images, before.finished]).toEqual([true, true, false]);
  await strip.getByRole("button", { name: "Cancel" }).click();
  await expect(strip).toContainText("Stopped after");
  const stopped = await study(page, own);
  expect(stopped.finished).toBe(false);
  await strip.getByRole("button", { name: "Continue" }).click();
  await expect(strip.getByRole("button", { name: "Cancel" })).toBeVisible();
  // The page stays usable: another layer, another view.
  await page.keyboard.press("1");
  await painted(page, "weights|edges");
  await page.keyboard.press("6");
  expect((await study(page, own)).finished).toBe(false);
  own.hurry();
  await expect.poll(async () => (await study(page, own)).finished).toBe(true);
  await expect(strip).toBeHidden();
  await expect(page.getByText(`of ${SLOW_PHOTOS} images`).first()).toBeVisible();
  await page.close();
  await own.stop();
});

test("without images there is nothing to mine, and it says what to do", async ({ explorer: page, server }) => {
  await page.route("**/api/images", (route) => route.fulfill({ json: { images: [], skipped: [] } }));
  const nothing = { mined: false, finished: false, layers: [], images: 0, done: 0, k: 0, location: "", skipped: [], skipped_count: 0, job: null, seconds: null, refused: "", failure: null, command: "convscope mine MODEL --images FOLDER" };
  await page.route("**/api/study", (route) => route.fulfill({ json: nothing }));
  await page.goto(`${server.origin}/#unit=edges:0&show=top_patches`);
  await page.reload();
  await expect(page.getByText("There are no images to mine.")).toBeVisible();
  await expect(page.getByRole("button", { name: "Start mining" })).toHaveCount(0);
});

test("what can't be mined or shown says why", async ({ explorer: page, server, expected }) => {
  expected.push(/422|500/);
  await mined(page, server);
  const error = { what: "the study's images aren't there", where: "photos", next_step: "open it with --images", kind: "unknown_name" };
  await page.route("**/api/patches?**", (route) => route.fulfill({ status: 422, json: { error } }));
  await page.goto(`${server.origin}/#unit=edges:0&show=top_patches`);
  await page.reload();
  await expect(page.getByRole("alert").first()).toContainText("the study's images aren't there");
  await page.unroute("**/api/patches?**");
  await page.getByRole("main").getByRole("button", { name: "Try again" }).click();
  await painted(page, "top_patches|edges");
});

for (const colorScheme of ["light", "dark"] as const) {
  test.describe(colorScheme, () => {
    test.use({ colorScheme });

    test("nothing for axe to find", async ({ explorer: page, server }) => {
      await open(page, server, "unit=mixtures:8&show=top_patches&rank=1&which=quantile");
      await painted(page, "top_patches|mixtures");
      await expect(page.locator("[data-facts] li").first()).toBeVisible();
      expect(await violations(page)).toEqual([]);
      await page.keyboard.press("p");
      await expect(page.locator("canvas[data-wall][data-painted]")).toBeVisible();
      expect(await violations(page)).toEqual([]);
      await page.setViewportSize({ width: 800, height: 900 });
      expect(await violations(page)).toEqual([]);
      expect(await contentWidth(page)).toBeLessThanOrEqual(800);
    });
  });
}
