// The real command on a free port, once per worker; every test fails on an error that the page didn't expect.

import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";

import AxeBuilder from "@axe-core/playwright";
import { expect, test as base, type Page, type Request } from "@playwright/test";

import { readView, type View } from "../src/api/view";

const COMMAND = process.env.CONVSCOPE ?? fileURLToPath(new URL("../../.venv/bin/convscope", import.meta.url));

/** How long a command may take until it has printed its address, on a machine that has much else to do. */
export const STARTING = 240_000;

export interface Server {
  /** With the token: the link that the command prints. */
  readonly link: string;
  readonly origin: string;
  stop(): Promise<void>;
}

/** Start `convscope …` and wait for the address it prints. */
export async function start(...options: string[]): Promise<Server> {
  const child = spawn(COMMAND, [...(options.length ? options : ["demo"]), "--no-browser"], { stdio: ["ignore", "pipe", "pipe"] });
  const link = await printedLink(child);
  return {
    link,
    origin: new URL(link).origin,
    stop: () =>
      new Promise((resolve) => {
        if (child.exitCode !== null) return resolve();
        child.once("exit", () => resolve());
        child.kill("SIGTERM");
        setTimeout(() => child.kill("SIGKILL"), 5_000).unref();
      }),
  };
}

function printedLink(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = "";
    const listen = (part: Buffer) => {
      said += part.toString();
      // The command may break a long line where it is printed on a terminal; here it is a pipe.
      const link = /http:\/\/127\.0\.0\.1:\d+\/\S*/.exec(said);
      if (link) resolve(link[0]);
    };
    child.stdout?.on("data", listen);
    child.stderr?.on("data", listen);
    child.once("exit", (code) => reject(new Error(`convscope ended with ${code}:\n${said}`)));
    child.once("error", reject);
  });
}

interface Fixtures {
  /** A page on which nothing may go wrong unnoticed; the tour is over unless a test wants it. */
  explorer: Page;
  /** Messages that a test expects in the console. */
  expected: RegExp[];
}

export const test = base.extend<Fixtures, { server: Server }>({
  server: [
    // eslint-disable-next-line no-empty-pattern
    async ({}, use) => {
      const server = await start();
      await use(server);
      await server.stop();
    },
    { scope: "worker", timeout: STARTING },
  ],
  // eslint-disable-next-line no-empty-pattern
  expected: async ({}, use) => use([]),
  explorer: async ({ page, server, expected }, use) => {
    const wrong: string[] = [];
    page.on("pageerror", (error) => wrong.push(`pageerror: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() === "error") wrong.push(`console: ${message.text()}`);
    });
    watch(page);
    await page.addInitScript(() => localStorage.setItem("convscope.tour", "seen"));
    await page.goto(server.link);
    await painted(page);
    await use(page);
    const unexpected = wrong.filter((text) => !expected.some((pattern) => pattern.test(text)));
    if (unexpected.length) throw new Error(unexpected.join("\n"));
  },
});

export { expect };

/** Wait until the contact sheet shows real tiles of a method and layer (any, when not said). */
export async function painted(page: Page, what?: string): Promise<void> {
  const canvas = what ? `canvas[data-painted="${what}"]` : "canvas[data-painted]";
  await expect(page.locator(canvas)).toBeVisible();
}

/** Wait until the page hears keys; what it shows may still be coming. */
export async function listening(page: Page): Promise<void> {
  await expect(page.locator("main#units")).toBeVisible();
}

interface Traffic {
  begun: number;
  readonly open: Set<Request>;
}

const watched = new WeakMap<Page, Traffic>();

/** Count what a page asks of the server; from its beginning, so that nothing is missed. */
export function watch(page: Page): Traffic {
  const known = watched.get(page);
  if (known) return known;
  const traffic: Traffic = { begun: 0, open: new Set() };
  watched.set(page, traffic);
  // The line of events never ends, and training is asked about again and again.
  const counts = (request: Request) => /\/api\/(?!events|training)/.test(request.url());
  page.on("request", (request) => {
    // A page that is loaded again has forgotten what the one before it asked.
    if (request.isNavigationRequest() && request.frame() === page.mainFrame()) traffic.open.clear();
    if (!counts(request)) return;
    traffic.begun++;
    traffic.open.add(request);
  });
  page.on("requestfinished", (request) => traffic.open.delete(request));
  page.on("requestfailed", (request) => traffic.open.delete(request));
  return traffic;
}

// Longer than any pause that the page makes before it asks.
const PAUSE = 450;

/** Placeholders, work that is told of, what is of a moment before, and what moves: all that is still on its way. */
async function coming(page: Page): Promise<string[]> {
  const seen = await page.evaluate(() => {
    const told = [...document.querySelectorAll('.skeleton, .busy, .stale, progress, [aria-busy="true"], [data-state="coming"]')]
      // What has come to its end stays as it is.
      .filter((element) => element.checkVisibility() && !(element instanceof HTMLProgressElement && element.position === 1));
    const moving = document.getAnimations().filter(({ playState, effect }) => playState === "running" && effect?.getComputedTiming().iterations !== Infinity);
    return [...told.map((element) => element.cloneNode(false) as Element).map((element) => element.outerHTML), ...moving.map((animation) => `moving: ${animation.constructor.name}`)];
  });
  return [...seen, ...[...watch(page).open].map((request) => request.url())];
}

/** Wait until the page is at rest: everything it asked for is here and shown, and it asks for nothing more. */
export async function settled(page: Page): Promise<void> {
  const traffic = watch(page);
  await expect(async () => {
    const { begun } = traffic;
    expect(await coming(page)).toEqual([]);
    // By the page's own clock, which is late where the page is.
    await page.evaluate((pause) => new Promise((resolve) => setTimeout(resolve, pause)), PAUSE);
    expect(await coming(page)).toEqual([]);
    expect(traffic.begun, "requests since").toBe(begun);
  }).toPass();
}

/** What axe finds on the page at rest, or in a part of it. */
export async function violations(page: Page, part?: string): Promise<string[]> {
  await settled(page);
  const builder = new AxeBuilder({ page });
  const result = await (part ? builder.include(part) : builder).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
  return result.violations.flatMap((each) => each.nodes.map((node) => `${each.id}: ${node.target.join(" ")} ${node.failureSummary ?? ""}`));
}

/** How wide the page's content is, and how many nodes it has, as soon as the layout has followed. */
export const contentWidth = (page: Page) => page.evaluate(() => document.documentElement.scrollWidth);
export const nodeCount = (page: Page) => page.evaluate(() => document.querySelectorAll("*").length);

/** The address's state, without "#". The page writes it a moment after what it shows. */
export const hashOf = (page: Page) => page.evaluate(() => location.hash.slice(1));

/** Open a state by its hash, as a pasted link would. */
export async function visit(page: Page, server: Server, hash: string): Promise<void> {
  await page.goto(`${server.origin}/#${hash}`);
  await page.reload();
  await painted(page);
}

/** A View as the page got it. */
export async function viewOf(page: Page, server: Server, path: string): Promise<View> {
  const response = await page.request.get(`${server.origin}/api/views/${path}`);
  const body = await response.body();
  return readView(body.buffer.slice(body.byteOffset, body.byteOffset + body.byteLength) as ArrayBuffer);
}

/** Red, green, blue of points of the contact sheet's canvas, in CSS pixels. */
export async function pixelsAt(page: Page, points: readonly (readonly [number, number])[]): Promise<number[][]> {
  return page.evaluate((places) => {
    const canvas = document.querySelector<HTMLCanvasElement>("canvas[data-sheet]");
    const context = canvas?.getContext("2d");
    if (!canvas || !context) throw new Error("no sheet");
    const density = canvas.width / canvas.clientWidth;
    return places.map(([left, top]) => [...context.getImageData(Math.floor(left * density), Math.floor(top * density), 1, 1).data.slice(0, 3)]);
  }, points);
}

/** Put an image on the clipboard's place: what a paste of a screenshot delivers. */
export async function paste(page: Page, bytes: Buffer, name: string, type: string): Promise<void> {
  await page.evaluate(
    ([content, fileName, mime]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(content as number[])], fileName as string, { type: mime as string }));
      document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
    },
    [[...bytes], name, type] as const,
  );
}
