// What a person does on the first day, against the real command and its embedded network.

import type { Job } from "../src/api/schema";
import { arrayOf } from "../src/api/view";
import { palette, unpack } from "../src/paint/colormap";
import { sheetLayout, tileLeft, tileTop } from "../src/paint/layout";
import { colorLevel, fit } from "../src/paint/planes";
import { colorIndex, fullScale } from "../src/paint/scale";
import { expect, hashOf, painted, paste, pixelsAt, settled, start, test, viewOf, visit, watch } from "./convscope";

/** A bitmap file of one color. */
function bitmap(side: number, [red, green, blue]: [number, number, number]): Buffer {
  const file = Buffer.alloc(54 + 3 * side * side);
  file.write("BM");
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(side, 18);
  file.writeInt32LE(side, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  for (let at = 54; at < file.length; at += 3) file.set([blue, green, red], at);
  return file;
}

test("the first journey, by keyboard alone", async ({ explorer: page }) => {
  const address = page.locator("[data-address]");
  const grid = page.getByRole("grid");
  await expect(address).toHaveText("stem.convolution:0");
  // How many tiles stand beside each other is known when everything around them is there.
  await settled(page);
  await page.keyboard.press("ArrowRight");
  await expect(address).toHaveText("stem.convolution:1");
  await page.keyboard.press("l");
  await page.keyboard.press("h");
  await expect(address).toHaveText("stem.convolution:1");
  const columns = Number(await grid.getAttribute("data-columns"));
  expect(columns).toBeGreaterThan(1);
  await page.keyboard.press("j");
  await expect(address).toHaveText(`stem.convolution:${1 + columns}`);
  await page.keyboard.press("2");
  await painted(page, "weight_gradients|stem.convolution");
  await page.keyboard.press("4");
  await painted(page, "activations|stem.convolution");
  await page.keyboard.press(".");
  await expect(page.locator("[data-image][aria-selected=true]")).toHaveAttribute("data-image", "1");
  await page.keyboard.press("]");
  await painted(page, "activations|stem.normalization");
  await page.keyboard.press("/");
  await expect(page.getByRole("dialog").getByRole("combobox")).toBeFocused();
  await page.keyboard.type("blocks.3 depthwise 5×5");
  await page.keyboard.press("Enter");
  await painted(page, "activations|blocks.3.depthwise");
  await page.keyboard.press("g");
  await expect(page.getByRole("dialog").getByRole("textbox")).toBeFocused();
  await page.keyboard.type("blocks.1.expand:7:5,6");
  await page.keyboard.press("Enter");
  await expect(address).toHaveText("blocks.1.expand:7");
  await expect(page.locator("[data-position]")).toHaveAttribute("data-position", "5,6");
  await expect(page.locator("[data-result]")).toBeVisible();
  await page.keyboard.press("b");
  await expect(page.getByRole("article", { name: "blocks.1.expand:7" })).toBeVisible();
  // Tab reaches the map; its arrows move the position. What is replaced while it has the focus would lose it.
  await settled(page);
  for (let tabs = 0; tabs < 200; tabs++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => document.activeElement?.getAttribute("role") === "application")) break;
  }
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("[data-position]")).toHaveAttribute("data-position", "6,7");
  await page.keyboard.press("?");
  await expect(page.getByRole("dialog", { name: "Keys" })).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog", { name: "Keys" })).toBeHidden();
  await expect.poll(() => hashOf(page)).toContain("unit=blocks.1.expand:7:6,7");
  // Escape gives up what someone waits for before it leaves the position.
  await settled(page);
  await page.keyboard.press("Escape");
  await expect.poll(() => hashOf(page)).not.toContain(":6,7");
});

test("the sheet's pixels are the kernel's values", async ({ explorer: page, server }) => {
  const view = await viewOf(page, server, "weights?target=stem.convolution&slices=0");
  const kernel = arrayOf(view, "kernel");
  const [, , rows, columns] = kernel.shape;
  const { limit } = fullScale(view.meta.ranges.kernel, "signed");
  const grid = page.getByRole("grid");
  await settled(page);
  await expect(async () => {
    const tile = Number(await grid.getAttribute("data-tile"));
    const layout = sheetLayout(kernel.shape[0], tile, await grid.evaluate((element) => element.clientWidth));
    const place = fit(rows, columns, tile);
    const points: [number, number][] = [];
    const wanted: number[][] = [];
    for (const unit of [0, 1, 5, 12, 31]) {
      for (let cell = 0; cell < rows * columns; cell++) {
        points.push([
          tileLeft(layout, unit) + place.left + (((cell % columns) + 0.5) * place.width) / columns,
          tileTop(layout, unit) + place.top + ((Math.floor(cell / columns) + 0.5) * place.height) / rows,
        ]);
        const size = rows * columns;
        wanted.push([0, 1, 2].map((slice) => colorLevel(kernel.data[(unit * 3 + slice) * size + cell], limit)));
      }
    }
    expect(await pixelsAt(page, points)).toEqual(wanted);
  }).toPass();
  await expect(page.locator("[data-legend=minimum]")).toHaveText("−3.71");
});

test("after sorting and filtering each picture is still its own unit's", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=blocks.0.depthwise:0&sort=norm&descending=1&tile=48&filter=norm+%3E+0.1");
  const view = await viewOf(page, server, "weights?target=blocks.0.depthwise&slices=0");
  const [kernel, norm] = [arrayOf(view, "kernel"), arrayOf(view, "norm")];
  const units = [...norm.data.keys()].filter((unit) => norm.data[unit] > 0.1).sort((one, other) => norm.data[other] - norm.data[one] || one - other);
  const colors = palette("signed", "orange-blue", "light").colors;
  const scale = fullScale(view.meta.ranges.kernel);
  const wanted = units.map((unit) => [...unpack(colors[colorIndex(kernel.data[unit * 9], scale)])]);
  await settled(page);
  const layout = sheetLayout(units.length, 48, await page.getByRole("grid").evaluate((element) => element.clientWidth));
  const points = units.map((_, place): [number, number] => [tileLeft(layout, place) + 8, tileTop(layout, place) + 8]);
  await expect.poll(() => pixelsAt(page, points)).toEqual(wanted);
  await page.getByRole("grid").click({ position: { x: tileLeft(layout, 3) + 10, y: tileTop(layout, 3) + 10 } });
  await expect(page.locator("[data-address]")).toHaveText(`blocks.0.depthwise:${units[3]}`);
});

test("the address bar is the state: reload and back give the same", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=blocks.2.depthwise:11:3,4&image=2&show=activations&sort=maximum&descending=1&scale=unit&positive=magma&photo=over&folded=statistics");
  await painted(page, "activations|blocks.2.depthwise");
  await expect(page.locator("[data-result]")).toBeVisible();
  const picture = () => page.evaluate(() => document.querySelector<HTMLCanvasElement>("canvas[data-sheet]")?.toDataURL());
  await settled(page);
  // The page has written the address itself, with the network's name.
  await expect.poll(() => hashOf(page)).toContain("network=");
  const [hash, pixels] = [await hashOf(page), await picture()];
  await page.reload();
  await painted(page, "activations|blocks.2.depthwise");
  await expect(page.locator("[data-result]")).toBeVisible();
  await expect.poll(picture).toBe(pixels);
  await expect.poll(() => hashOf(page)).toBe(hash);
  await page.keyboard.press("]");
  await painted(page, "activations|blocks.2.depthwise_normalization");
  await expect.poll(() => hashOf(page)).toContain("depthwise_normalization");
  await page.goBack();
  await painted(page, "activations|blocks.2.depthwise");
  await expect(page.locator("[data-address]")).toHaveText("blocks.2.depthwise:11");
});

test("one number taken apart is the network's own", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=blocks.3.depthwise:20:9,9");
  const view = await viewOf(page, server, "activations?target=blocks.3.depthwise&images=0");
  const map = arrayOf(view, "map");
  const [, , rows, columns] = map.shape;
  const result = async () => Number(await page.locator("[data-result]").getAttribute("data-result"));
  await expect.poll(result).toBeCloseTo(map.data[(20 * rows + 9) * columns + 9], 4);
});

test("a link for another network says so", async ({ explorer: page, server }) => {
  await page.goto(`${server.origin}/#network=0123456789ab&unit=features.0:3`);
  await page.reload();
  await expect(page.getByRole("alert")).toContainText("another network");
  await page.getByRole("button", { name: /instead/ }).click();
  await painted(page);
});

test("own images by file dialog and by dropping; a bad one gives a card", async ({ explorer: page, expected }, { repeatEachIndex }) => {
  expected.push(/415|422|400/);
  const images = page.locator("[data-image]");
  // The strip shows as many as there is room for, and learns of its room after it is there.
  await settled(page);
  const before = await images.count();
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.getByRole("button", { name: /drop, paste or choose/ }).click()]);
  await chooser.setFiles({ name: "red.bmp", mimeType: "image/bmp", buffer: bitmap(64, [200, 20, 30 + repeatEachIndex]) });
  await expect(page.getByRole("option", { name: /^red\.bmp/ })).toHaveAttribute("aria-selected", "true");
  await expect(images).toHaveCount(before + 1);
  await page.locator("body").evaluate((body) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array([1, 2, 3])], "broken.png", { type: "image/png" }));
    body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  });
  await expect(page.getByRole("alert")).toBeVisible();
  await expect(page.getByRole("alert")).toContainText("Next:");
  await expect(images).toHaveCount(before + 1);
  await page.getByRole("button", { name: "Dismiss" }).click();
  await page.keyboard.press("4");
  await painted(page, "activations|stem.convolution");
});

test("a pasted image is added and shown", async ({ explorer: page }, { repeatEachIndex }) => {
  const images = page.locator("[data-image]");
  const picture = bitmap(48, [20, 160, 90 + repeatEachIndex]);
  await settled(page);
  const before = await images.count();
  await paste(page, picture, "pasted.bmp", "image/bmp");
  await expect(page.getByRole("option", { name: /^pasted\.bmp/ })).toHaveAttribute("aria-selected", "true");
  await expect(images).toHaveCount(before + 1);
  const answered = page.waitForResponse((response) => response.url().includes("name=again.bmp"));
  await paste(page, picture, "again.bmp", "image/bmp");
  await answered;
  await page.keyboard.press("4");
  await painted(page, "activations|stem.convolution");
  await expect(images).toHaveCount(before + 1);
});

test("what is cancelled with Escape stops on the server: the next view is there at once", async ({ explorer: page, server }) => {
  // Every image many times over, as many as one view may have, so that it lasts: the part of it that is under way when it
  // is cancelled, an eighth, is done first. Nobody else asks for this target.
  await page.route(/views\/weight_gradients/, (route) => {
    const url = new URL(route.request().url());
    const images = (url.searchParams.get("images") ?? "").split(",");
    url.searchParams.set("images", Array.from({ length: 256 }, (_, place) => images[place % images.length]).join(","));
    return route.continue({ url: url.href });
  });
  await visit(page, server, "unit=head.convolution:0&show=weights&over=all&objective=score:17&folded=kernel~map~step~classes");
  const asked = page.waitForRequest(/views\/weight_gradients/);
  await page.keyboard.press("2");
  const job = (await asked).headers()["x-convscope-job"];
  const told = async () => (await (await page.request.get(`${server.origin}/api/jobs/${job}`)).json()) as Job;
  await expect(page.getByRole("button", { name: "Cancel" })).toBeVisible();
  // How long it would still take, on this machine and with all that it has to do besides.
  let left = 0;
  await expect.poll(async () => (left = 1_000 * ((await told()).seconds_left ?? 0)), { intervals: [100] }).toBeGreaterThan(0);
  await page.keyboard.press("Escape");
  const cancelled = Date.now();
  await expect(page.getByText("Cancelled.")).toBeVisible();
  const answer = await page.request.get(`${server.origin}/api/views/activations?target=blocks.1.expand&images=3`);
  expect(answer.ok()).toBe(true);
  const waited = Date.now() - cancelled;
  console.log(`another view after a cancelled one: ${waited} ms; it would have taken ${Math.round(left)} ms more`);
  await expect.poll(async () => (await told()).state).toBe("cancelled");
  // Behind work that went on, it would have come later than that work's end.
  expect(waited).toBeLessThan(left);
});

test("the image's own gradients belong to no layer", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=blocks.1.expand:5&show=spatial_gradients&of=image&image=2");
  await painted(page, "spatial_gradients|image");
  await expect(page.getByText("no layer is involved")).toBeVisible();
  const view = await viewOf(page, server, "spatial_gradients?images=2&of=image");
  const magnitude = arrayOf(view, "magnitude");
  expect(magnitude.shape.slice(0, 2)).toEqual([3, 1]);
  // Units still go by index, and a click on a channel of the image chooses none.
  await page.keyboard.press("l");
  await expect(page.locator("[data-address]")).toHaveText("blocks.1.expand:6");
  await page.getByRole("grid").click({ position: { x: 300, y: 100 } });
  await expect(page.locator("[data-address]")).toHaveText("blocks.1.expand:6");
  await page.getByLabel("Of", { exact: true }).selectOption("activations");
  await painted(page, "spatial_gradients|blocks.1.expand");
});

test("each image's own pull on a kernel, on one scale", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=stem.convolution:3&over=all&folded=map~step~classes");
  const pictures = page.getByRole("img", { name: /^Gradient of .* alone$/ });
  await settled(page);
  await expect(pictures).toHaveCount(Math.min(12, await page.locator("[data-image]").count()));
  let asked = 0;
  page.on("request", (request) => (asked += Number(request.url().includes("per_image"))));
  await page.getByRole("button", { name: "Whose image pulls how" }).click();
  await expect(pictures).toHaveCount(0);
  await page.keyboard.press("l");
  await expect(page.locator("[data-address]")).toHaveText("stem.convolution:4");
  // Unfolded it would ask after a pause; the page at rest has let that pass.
  await settled(page);
  expect(asked, "folded, it costs nothing").toBe(0);
  await page.getByRole("button", { name: "Whose image pulls how" }).click();
  await expect(pictures.first()).toBeVisible();
  expect(asked, "unfolded, it asks").toBeGreaterThan(0);
});

test("the sheet as a table: the same units in the same order, by keyboard", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=head.convolution:0&sort=norm&descending=1");
  const view = await viewOf(page, server, "weights?target=head.convolution&slices=0");
  const norm = arrayOf(view, "norm").data;
  const order = [...norm.keys()].sort((one, other) => norm[other] - norm[one] || one - other);
  await page.keyboard.press("t");
  const rows = page.locator("[data-table] tbody tr");
  await expect(rows).toHaveCount(200);
  const names = async () => (await rows.locator("th").allTextContents()).map((text) => Number(text.trim().split(":")[1]));
  const shown = order.indexOf(0) - (order.indexOf(0) % 200);
  await expect.poll(names).toEqual(order.slice(shown, shown + 200));
  await expect(page.locator("[data-table] [aria-sort]")).toHaveAttribute("aria-sort", "descending");
  await page.getByRole("columnheader", { name: "norm" }).getByRole("button").press("Enter");
  await expect(page.locator("[data-table] [aria-sort]")).toHaveAttribute("aria-sort", "ascending");
  await page.locator("#filter").fill("0-9");
  await expect(rows).toHaveCount(10);
  const ascending = order.filter((unit) => unit < 10).reverse();
  await expect.poll(names).toEqual(ascending);
  await rows.nth(0).getByRole("button").press("Enter");
  await expect(page.locator("[data-address]")).toHaveText(`head.convolution:${ascending[0]}`);
  await page.keyboard.press("j");
  await expect(page.locator("[data-address]")).toHaveText(`head.convolution:${ascending[1]}`);
  await expect(rows.nth(1)).toHaveAttribute("aria-current", "true");
  await page.keyboard.press("t");
  await expect(page.getByRole("grid")).toBeVisible();
});

test("a layer without kernel leads to the nearest one with it", async ({ explorer: page, server }) => {
  await visit(page, server, "unit=blocks.2.expand_relu:4&show=activations");
  await page.getByRole("button", { name: "Take apart blocks.2.expand instead" }).click();
  await expect(page.locator("[data-address]")).toHaveText("blocks.2.expand:4");
  await visit(page, server, "unit=blocks.2.expand_normalization:4&show=activations");
  await expect(page.getByText("one weight and one bias per channel").first()).toBeVisible();
});

test("long work can be cancelled within a second", async ({ explorer: page, expected }) => {
  expected.push(/Failed to load resource|ERR_/);
  await page.route(/activation_gradients/, () => undefined); // Never answered.
  await page.keyboard.press("5");
  const cancel = page.getByRole("button", { name: "Cancel" });
  await cancel.waitFor();
  // By the page's own clock, from the press on: how long the test takes to press is nobody's wait.
  await page.evaluate(() => addEventListener("pointerdown", () => performance.mark("pressed"), { capture: true, once: true }));
  const told = page.waitForRequest((request) => request.method() === "DELETE" && request.url().includes("/api/jobs/"));
  await cancel.click();
  await expect(page.getByText("Cancelled.")).toBeVisible();
  const request = await told;
  await request.response();
  const pressed = await page.evaluate(() => performance.timeOrigin + performance.getEntriesByName("pressed")[0].startTime);
  const waited = request.timing().startTime - pressed;
  console.log(`cancelled ${Math.round(waited)} ms after the press`);
  expect(waited).toBeLessThan(1_000);
  await page.unroute(/activation_gradients/);
  await page.getByRole("button", { name: "Compute again" }).click();
  await painted(page, "activation_gradients|stem.convolution");
});

test("an error is a card in its panel; the rest lives on", async ({ explorer: page, expected }) => {
  expected.push(/422/);
  const error = { what: "no answer here", where: "stem.convolution", next_step: "choose another layer", kind: "refused" };
  await page.route(/spatial_gradients/, (route) => route.fulfill({ status: 422, json: { error } }));
  await page.keyboard.press("3");
  const card = page.getByRole("alert");
  await expect(card).toContainText("no answer here");
  await expect(card).toContainText("choose another layer");
  await page.keyboard.press("4");
  await painted(page, "activations|stem.convolution");
});

test("the server goes away: a banner, and what is here stays", async ({ browser }) => {
  const own = await start();
  const page = await browser.newPage();
  watch(page);
  await page.addInitScript(() => localStorage.setItem("convscope.tour", "seen"));
  await page.goto(own.link);
  await painted(page);
  await own.stop();
  await expect(page.getByText("The server can't be reached.", { exact: false }).first()).toBeVisible();
  await expect(page.locator("canvas[data-painted]")).toBeVisible();
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("[data-address]")).toHaveText("stem.convolution:1");
  await page.close();
});

test("the tour has five stops and can be left at any", async ({ page, server }) => {
  await page.goto(server.link);
  await painted(page);
  const card = page.getByRole("dialog", { name: "The network" });
  await expect(card).toBeVisible();
  for (let stop = 1; stop < 5; stop++) await page.getByRole("button", { name: "Next", exact: true }).click();
  await expect(page.getByRole("dialog", { name: "How one number came to be" })).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toBeHidden();
  await page.reload();
  await painted(page);
  await expect(page.getByRole("dialog")).toBeHidden();
});
