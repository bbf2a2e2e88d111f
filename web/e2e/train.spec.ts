// A student trains digits: runs, pauses, goes back in time, changes the learning rate, asks for an image of their own.

import type { Page } from "@playwright/test";

import type { RunDetails, Runs } from "../src/api/training";
import { contentWidth, listening, nodeCount, violations } from "./convscope";
import { colors, expect, painted, recordLoop, standing, stepOf, test, visit, type TrainServer } from "./train";

const running = (page: Page) => page.locator("[data-state=running]");
const paused = (page: Page) => page.locator("[data-state=paused]");

/** Train until so many steps are done, then stand still; returns where. */
async function trainTo(page: Page, training: TrainServer, step: number): Promise<number> {
  await standing(page, training);
  await page.locator("body").press("Space");
  await expect(running(page)).toBeVisible();
  await expect.poll(() => stepOf(page), { timeout: 180_000 }).toBeGreaterThan(step);
  await page.locator("body").press("Space");
  await expect(paused(page)).toBeVisible();
  return standing(page, training);
}

test("train, pause, step once: all panels move, and stand still", async ({ train: page, training }) => {
  const before = await standing(page, training);
  const at = await trainTo(page, training, before + 120);
  for (const quantity of ["activations", "activation_gradients", "weights", "weight_gradients"]) {
    await painted(page, `conv1|${quantity}`);
    await expect.poll(() => colors(page, `conv1|${quantity}`), { message: quantity }).toBeGreaterThan(4);
  }
  await expect(page.locator("canvas[data-plot=loss]")).toHaveAttribute("data-painted", /[1-9]\d/);
  await expect(page.locator("[data-numbers]")).toContainText("held out");
  // It stands where it stopped.
  expect(await standing(page, training)).toBe(at);
  await page.locator("body").press("n");
  await expect.poll(() => stepOf(page)).toBe(at + 1);
  // The frame shown is that of the weights as they are now.
  await expect(page.locator('[data-strip="conv1|weights"] canvas')).toHaveAttribute("data-painted", String(at + 1));
});

test("the time slider replays it, and leads back to now", async ({ train: page, training }) => {
  if ((await standing(page, training)) < 40) await trainTo(page, training, 60);
  const slider = page.locator("[data-time]");
  await expect(slider).toBeEnabled();
  await page.locator("[data-shown]").waitFor({ state: "attached" });
  await slider.focus();
  await slider.press("ArrowLeft");
  await expect(page.locator("[data-shown]")).not.toHaveAttribute("data-shown", "live");
  await slider.fill("0");
  await expect(page.locator("[data-shown]")).toHaveAttribute("data-shown", "0");
  await expect(page.locator('[data-strip="conv1|weights"] canvas')).toHaveAttribute("data-painted", "0");
  await expect(page).toHaveURL(/step=0/);
  await page.locator("body").press(".");
  await expect(page.locator("[data-shown]")).toHaveAttribute("data-shown", "1");
  await page.locator("body").press("b");
  await expect(page.locator('[data-strip="conv1|weights"] canvas')).toHaveCount(2);
  await page.locator("body").press("b");
  await page.locator("body").press("y");
  await expect.poll(async () => Number(await page.locator("[data-shown]").getAttribute("data-shown"))).toBeGreaterThan(1);
  await page.locator("body").press("0");
  await expect(page.locator("[data-shown]")).toHaveAttribute("data-shown", "live");
  // How the unit grew, from the first recorded step on.
  await expect(page.locator(".growth li").first()).toContainText("0");
});

test("a changed learning rate counts at once, is listed, marked, and refused when it makes no sense", async ({ train: page, expected }) => {
  expected.push(/status of 400/);
  await page.locator("body").press("e");
  const field = page.locator("[data-settings]").getByLabel("learning rate");
  await expect(field).toHaveValue(/^0\.00/);
  const before = await field.inputValue();
  await field.fill("0.0005");
  await field.press("Enter");
  await expect(page.locator("[data-settings] ol")).toContainText(`learning_rate: ${before} → 0.0005`);
  await expect(page.locator(".mark").first()).toBeAttached();
  await field.fill("1000");
  await field.press("Enter");
  await expect(page.getByRole("alert")).toContainText("learning_rate can't be 1000");
  await expect(field).toHaveValue("0.0005");
  await page.getByRole("alert").getByRole("button", { name: "Dismiss" }).click();
  await page.locator("[data-settings]").getByRole("button", { name: "× 10" }).click();
  await expect(field).toHaveValue("0.005");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await expect(page.locator("[data-settings]")).toBeHidden();
});

test("test images, the matrix behind them, and an image of one's own", async ({ train: page, training, expected }) => {
  expected.push(/status of 4\d\d/);
  if ((await standing(page, training)) < 120) await trainTo(page, training, 150);
  await expect(page.locator("[data-test-step] [data-answer]")).toHaveCount(6);
  const matrix = page.locator("canvas[data-confusion]");
  // Before its numbers are here, there is nothing to choose in it.
  await expect(page.locator("section[data-section=train-confusion]")).toContainText("%");
  await matrix.scrollIntoViewIfNeeded();
  await matrix.click({ position: { x: 10, y: 10 } });
  await expect(page.locator(".found [data-answer]").first()).toBeVisible();
  const png = await page.request.get(`${training.origin}/api/training/runs/digits/images/0`);
  await page.locator("section[data-section=train-predict] input[type=file]").setInputFiles({ name: "digit.png", mimeType: "image/png", buffer: await png.body() });
  const answer = page.locator("[data-prediction]");
  await expect(answer).toBeVisible();
  const found = await (await page.request.get(`${training.origin}/api/training/runs/digits/test?indexes=0`)).json();
  await expect(answer).toHaveAttribute("data-prediction", found.images[0].top[0].class_name);
  await page.locator("section[data-section=train-predict] input[type=file]").setInputFiles({ name: "text.png", mimeType: "image/png", buffer: Buffer.from("no image") });
  await expect(page.locator("section[data-section=train-predict]").getByRole("alert")).toBeVisible();
});

test("backpropagation: the products add up to what PyTorch says, in every layer", async ({ train: page, training }) => {
  await visit(page, training, "run=digits&part=lesson&sample=1");
  await expect(page.locator("[data-loss=own] [data-total]")).toBeVisible();
  const names = await page.locator(".chain li button").allTextContents();
  const chosen = page.locator(".chain [aria-current=step]");
  const addsUp = (name: string) =>
    expect.poll(async () => {
      // Of this layer: the table of the layer before may still be there.
      const [of, sum, gradient] = await Promise.all([
        page.locator("[data-terms]").getAttribute("data-terms"),
        page.locator("[data-sum]").getAttribute("data-sum"),
        page.locator("[data-gradient]").getAttribute("data-gradient"),
      ]);
      return of === name && Math.abs(Number(sum) - Number(gradient)) <= 1e-5 * Math.max(1e-12, Math.abs(Number(gradient)));
    }, { message: name }).toBe(true);
  expect(names.length).toBeGreaterThan(2);
  for (const name of names.slice(0, -1).reverse()) {
    await page.locator("body").press("ArrowLeft");
    await expect(chosen).toHaveText(name);
    await expect(page.locator(`[data-lesson="${name}"]`)).toBeVisible();
    await expect(page.locator("[data-gradient]")).toBeVisible();
    await addsUp(name);
  }
  await page.locator("body").press("ArrowRight");
  await expect(chosen).toHaveText(names[1]);
  // And so do those of a weight.
  await page.locator(".chain").getByRole("button", { name: "conv1", exact: true }).click();
  await page.getByRole("radio", { name: "one weight" }).click();
  await expect(page.getByText(/^conv1\.weight\[/)).toBeVisible();
  await addsUp("conv1");
});

test("a network of one's own is checked while it is written, and trains", async ({ train: page }) => {
  await page.getByRole("button", { name: "New…" }).click();
  const editor = page.locator("[data-definition]");
  await editor.fill("- input: {rows: 28, columns: 28, channels: 1}\n- convolution: {units: 4, size: 5}\n- rellu\n- fully_connected: {units: 10}\n- softmax\n");
  await expect(page.locator("[data-definition-error]")).toHaveAttribute("data-definition-error", "3");
  await expect(page.locator(".foot")).toContainText("relu");
  await expect(page.locator("[data-start]")).toBeDisabled();
  await editor.fill((await editor.inputValue()).replace("rellu", "relu"));
  await expect(page.locator(".results")).toContainText("4 × 24 × 24");
  await page.getByLabel("name", { exact: true }).fill("mine");
  await page.locator("[data-start]").click();
  await expect(running(page)).toBeVisible();
  await painted(page);
  await expect(page).toHaveURL(/run=mine/);
  await page.locator("body").press("Space");
  await expect(paused(page)).toBeVisible();
});

test("anybody's loop with two lines around it shows up here", async ({ train: page, training }) => {
  await recordLoop(`${training.runs}/theirs`);
  await page.locator("button[title^='Which run is shown']").click();
  await page.getByRole("button", { name: "Show theirs" }).click();
  await painted(page, "0|weights");
  await expect(page.locator("canvas[data-plot=loss]")).toBeVisible();
  await expect(page.locator("[data-shown]")).not.toHaveAttribute("data-shown", "live");
  await expect.poll(() => colors(page, "0|weights")).toBeGreaterThan(4);
  await expect(page.locator("section[data-section=train-test]")).toContainText("This run was recorded");
});

test("optimizers race on the same batches", async ({ train: page, training }) => {
  await visit(page, training, "run=digits&part=race");
  await page.getByRole("textbox", { name: "steps" }).fill("60");
  await page.getByRole("textbox", { name: "steps" }).press("Tab");
  await page.locator("[data-race-start]").click();
  await expect(page.locator("[data-race=finished]")).toBeVisible({ timeout: 180_000 });
  await expect(page.locator(".results tbody tr")).toHaveCount(5);
});

test.describe("from training to exploring", () => {
  // A method may find out only while it works that it has no rule for this network; its row says so.
  test.use({ expected: [/status of 422/] });

  test("the network that trains is looked into like any other, and led back from", async ({ train: page, training }) => {
    await page.evaluate(() => localStorage.setItem("convscope.tour", "seen"));
    if ((await standing(page, training)) < 20) await trainTo(page, training, 30);
    await page.locator("[data-explore]").click();
    await expect(page.locator("[data-explored]")).toBeVisible();
    await listening(page);
    await expect(page.locator("canvas[data-sheet][data-painted]")).toBeVisible();
    await expect(page.locator("[data-address]")).toContainText("conv1");
    // Everything that Explore has: here, what drove the answer to a held-out digit.
    await page.locator("body").press("i");
    await expect(page.locator('[data-cell^="gradient|"]').first()).toHaveAttribute("data-state", "here");
    await page.getByRole("button", { name: "Back to its training" }).click();
    await painted(page);
  });
});

for (const colorScheme of ["light", "dark"] as const) {
  test.describe(colorScheme, () => {
    test.use({ colorScheme });

    test("nothing for axe to find, and few nodes", async ({ train: page, training }) => {
      // What was recorded is looked at too; alone, this story begins with a run of no steps.
      const digits = (await (await page.request.get(`${training.origin}/api/training/runs/digits`)).json()) as RunDetails;
      if (digits.step === 0) await trainTo(page, training, 20);
      // Only of the run that is trained now there is a backward pass to look at.
      const { live } = (await (await page.request.get(`${training.origin}/api/training/runs`)).json()) as Runs;
      for (const [width, hash, shown] of [
        [1440, "run=digits", '[data-strip="conv1|weights"] canvas[data-painted]'],
        [800, "run=digits", '[data-strip="conv1|weights"] canvas[data-painted]'],
        [1440, "run=digits&step=0&beside=digits@1&table=1", '[data-shown="0"]'],
        [1440, `run=${live}&part=lesson&sample=1`, "[data-loss=own] [data-total]"],
        [1440, "run=digits&part=race", "[data-race-start], [data-race]"],
        [1440, "run=digits&part=new", "[data-definition]"],
      ] as const) {
        await page.setViewportSize({ width, height: 900 });
        await visit(page, training, hash);
        await expect(page.locator(shown).first()).toBeAttached();
        expect(await violations(page), hash).toEqual([]);
        await expect.poll(() => contentWidth(page), { message: hash }).toBeLessThanOrEqual(width);
        await expect.poll(() => nodeCount(page), { message: hash }).toBeLessThanOrEqual(2_000);
      }
    });
  });
}
