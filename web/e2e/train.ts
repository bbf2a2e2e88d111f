// Training as anybody would start it: the command, in a folder of its own; and a loop of someone else's that is watched.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { expect, test as base, type Page } from "@playwright/test";

import type { RunDetails } from "../src/api/training";
import { hashOf, start, STARTING, watch, type Server } from "./convscope";

const COMMAND = process.env.CONVSCOPE ?? fileURLToPath(new URL("../../.venv/bin/convscope", import.meta.url));

export interface TrainServer extends Server {
  readonly runs: string;
}

/** `convscope train` on the embedded digits, paused; a part of them, so that looking at all held-out ones is quick. */
export async function startTraining(...options: string[]): Promise<TrainServer> {
  const folder = mkdtempSync(join(tmpdir(), "convscope-train-"));
  const runs = join(folder, "runs");
  const server = await start("train", ...options, "--paused", "--run", join(runs, "digits"), "--train-images", "2000", "--held-out-images", "300");
  return {
    ...server,
    runs,
    stop: async () => {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const LOOP = `
import sys
import torch
from torch import nn
import convscope as cs

torch.manual_seed(0)
torch.set_num_threads(1)
module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
images = torch.randn(64, 1, 8, 8)
labels = (images.mean((1, 2, 3)) > 0).long()
with cs.Monitor(module, optimizer, store=sys.argv[1], images=(images[:2], [0, 1]), budget=None) as monitor:
    for _ in range(30):
        loss = nn.functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.log(loss=loss)
`;

/** Somebody's own loop with two lines around it. */
export function recordLoop(folder: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(join(dirname(COMMAND), "python"), ["-c", LOOP, folder], { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (part: Buffer) => (said += part.toString()));
    child.once("exit", (code) => (code === 0 ? resolve() : reject(new Error(said))));
    child.once("error", reject);
  });
}

interface Fixtures {
  /** The Train tab with its first panels painted, on which nothing may go wrong unnoticed. */
  train: Page;
  /** Messages that a test expects in the console. */
  expected: RegExp[];
}

export const test = base.extend<Fixtures, { training: TrainServer }>({
  training: [
    // eslint-disable-next-line no-empty-pattern
    async ({}, use) => {
      const server = await startTraining();
      await use(server);
      await server.stop();
    },
    { scope: "worker", timeout: STARTING },
  ],
  // eslint-disable-next-line no-empty-pattern
  expected: async ({}, use) => use([]),
  train: async ({ page, training, expected }, use) => {
    const wrong: string[] = [];
    page.on("pageerror", (error) => wrong.push(`pageerror: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() === "error") wrong.push(`console: ${message.text()}`);
    });
    watch(page);
    await page.goto(training.link);
    await painted(page);
    await use(page);
    const unexpected = wrong.filter((text) => !expected.some((pattern) => pattern.test(text)));
    if (unexpected.length) throw new Error(unexpected.join("\n"));
  },
});

export { expect };

/** Wait until a strip shows real tiles. */
export async function painted(page: Page, strip = "conv1|activations"): Promise<void> {
  await expect(page.locator(`[data-strip="${strip}"] canvas[data-painted]:not([data-painted=""])`)).toBeVisible();
}

/** The step that the page says training is at. */
export async function stepOf(page: Page): Promise<number> {
  return Number(await page.locator("[data-facts] [data-step]").getAttribute("data-step"));
}

/** Wait until the page tells of the very step at which its run stands; returns it. */
export async function standing(page: Page, server: Server): Promise<number> {
  let step = NaN;
  await expect(async () => {
    const run = new URLSearchParams(await hashOf(page)).get("run");
    const told = (await (await page.request.get(`${server.origin}/api/training/runs/${run}`)).json()) as RunDetails;
    expect(told.state).toBe("paused");
    step = told.statistics?.step ?? NaN;
    expect(await stepOf(page)).toBe(step);
    await expect(page.locator("[data-state=paused]")).toBeVisible({ timeout: 5_000 });
  }).toPass();
  return step;
}

/** Open a state by its hash, as a pasted link would. */
export async function visit(page: Page, server: Server, hash: string): Promise<void> {
  await page.goto(`${server.origin}/#tab=train&${hash}`);
  await page.reload();
}

/** How many different colors a strip's canvas has: one is an empty canvas. */
export async function colors(page: Page, strip: string): Promise<number> {
  return page.locator(`[data-strip="${strip}"] canvas`).first().evaluate((element) => {
    const canvas = element as HTMLCanvasElement;
    const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
}
