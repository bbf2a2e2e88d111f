// The real command on a free port, once per worker; every test fails on an error that the page didn't expect.

import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";

import { test as base, type Page } from "@playwright/test";

import { readView, type View } from "../src/api/view";

const COMMAND = process.env.CONVSCOPE ?? fileURLToPath(new URL("../../.venv/bin/convscope", import.meta.url));

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
    { scope: "worker", timeout: 120_000 },
  ],
  // eslint-disable-next-line no-empty-pattern
  expected: async ({}, use) => use([]),
  explorer: async ({ page, server, expected }, use) => {
    const wrong: string[] = [];
    page.on("pageerror", (error) => wrong.push(`pageerror: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() === "error") wrong.push(`console: ${message.text()}`);
    });
    await page.addInitScript(() => localStorage.setItem("convscope.tour", "seen"));
    await page.goto(server.link);
    await painted(page);
    await use(page);
    const unexpected = wrong.filter((text) => !expected.some((pattern) => pattern.test(text)));
    if (unexpected.length) throw new Error(unexpected.join("\n"));
  },
});

export { expect } from "@playwright/test";

/** Wait until the contact sheet shows real tiles of a method and layer (any, when not said). */
export async function painted(page: Page, what?: string): Promise<void> {
  const canvas = what ? `canvas[data-painted="${what}"]` : "canvas[data-painted]";
  await page.locator(canvas).waitFor({ timeout: 30_000 });
}

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
