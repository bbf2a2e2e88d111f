// Networks unlike the embedded one: units that see different parts, and very many units.

import type { Layers, ReceptiveFieldBox } from "../src/api/schema";
import { isKnown, seenBox } from "../src/state/receptive";
import { expect, nodeCount, painted, settled, STARTING, test as base, visit, type Server } from "./convscope";
import { startBranches } from "./networks";

const test = base.extend<object, { server: Server }>({
  server: [
    // eslint-disable-next-line no-empty-pattern
    async ({}, use) => {
      const server = await startBranches();
      await use(server);
      await server.stop();
    },
    { scope: "worker", timeout: STARTING },
  ],
});

const fieldOf = async (page: import("@playwright/test").Page, server: Server, unit: string) =>
  (await (await page.request.get(`${server.origin}/api/receptive-field?unit=${encodeURIComponent(unit)}`)).json()) as ReceptiveFieldBox;

test("boxes computed in the page are the server's, of every layer", async ({ explorer: page, server }) => {
  const { layers } = (await (await page.request.get(`${server.origin}/api/layers`)).json()) as Layers;
  const asked: string[] = [];
  for (const layer of layers) {
    if (layer.opaque) continue;
    const [units, rows, columns] = layer.shape;
    if (!isKnown(layer)) {
      asked.push(layer.address);
      continue;
    }
    for (const channel of new Set([0, units - 1])) {
      for (const row of new Set([0, rows >> 1, rows - 1])) {
        for (const column of new Set([0, columns - 1])) {
          const box = await fieldOf(page, server, `${layer.address}:${channel}:${row},${column}`);
          expect(seenBox(layer, { row, column }, [64, 64]), `${layer.address}:${channel}:${row},${column}`).toEqual({
            row: box.row, column: box.column, rows: box.rows, columns: box.columns,
          });
        }
      }
    }
  }
  // Where the units of one layer differ, and where positions aren't evenly spaced, the page asks.
  expect(asked).toEqual(expect.arrayContaining(["apart", "uneven"]));
  expect(asked).not.toContain("wide");
});

test("units of a concatenation have their own boxes", async ({ explorer: page, server }) => {
  const drawn = page.locator("[data-field]");
  for (const [unit, size] of [["apart:0:6,6", 7], ["apart:4:6,6", 11], ["apart:8:6,6", 23]] as const) {
    await visit(page, server, `unit=${unit}&show=activations`);
    const { row, column, rows, columns } = await fieldOf(page, server, unit);
    expect([rows, columns]).toEqual([size, size]);
    await expect(drawn).toHaveAttribute("data-field", [row, column, rows, columns].join(","));
  }
  await expect(page.locator("[data-layer=apart]")).toContainText("up to 23×23");
  await expect(page.locator(".facts")).toContainText("receptive field up to 23×23");
});

test("2,048 units are one sheet with few nodes, from the first to the last", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=wide:0&show=weights&tile=64");
  await painted(page, "weights|wide");
  const grid = page.getByRole("grid").first();
  await settled(page);
  expect(await nodeCount(page)).toBeLessThan(2_000);
  await page.keyboard.press("g");
  await expect(page.getByRole("dialog").getByRole("textbox")).toBeFocused();
  await page.keyboard.type("wide:2047");
  await page.keyboard.press("Enter");
  await expect(page.locator(".inspector")).toHaveAttribute("data-painted", "wide:2047");
  await expect.poll(() => grid.evaluate((element) => element.scrollTop)).toBeGreaterThan(1_000);
  await settled(page);
  await painted(page, "weights|wide");
  expect(await nodeCount(page)).toBeLessThan(2_000);
});
