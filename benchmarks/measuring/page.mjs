// Starts a convscope command, opens its page in Chromium and measures one journey; prints JSON.
//   first-grid: seconds from starting the process to tiles on the contact sheet's canvas
//   unit-switches: milliseconds from a key (or a new address) to the unit's kernel, gradient and map on the screen
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";

const { chromium } = createRequire(new URL("../../web/package.json", import.meta.url))("playwright-core");
const task = JSON.parse(process.argv[2]);
const PATIENCE = 120_000;

/** The command as a process, and the URL that it prints. */
async function start(command) {
  const server = spawn(command[0], command.slice(1), { stdio: ["ignore", "pipe", "inherit"] });
  const url = await new Promise((resolve, reject) => {
    let printed = "";
    server.stdout.on("data", (bytes) => {
      printed += bytes;
      const found = /http:\/\/\S+/.exec(printed);
      if (found) resolve(found[0]);
    });
    server.once("exit", (code) => reject(new Error(`${command.join(" ")} ended with ${code}: ${printed}`)));
    setTimeout(() => reject(new Error(`no address after ${PATIENCE} ms: ${printed}`)), PATIENCE).unref();
  });
  return { server, url };
}

async function stop(server) {
  const ended = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGINT");
  const timer = setTimeout(() => server.kill("SIGKILL"), 10_000);
  await ended;
  clearTimeout(timer);
}

/** Resolves when the contact sheet shows tiles: many colors, which neither a background nor a skeleton has. */
const gridPainted = () =>
  new Promise((resolve) => {
    const colors = () => {
      const canvas = document.querySelector("[data-tour=sheet] canvas");
      const [width, height] = [Math.min(canvas?.width ?? 0, 256), Math.min(canvas?.height ?? 0, 256)];
      if (!width || !height) return 0;
      return new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer)).size;
    };
    // Two frames: what is in the canvas in one of them is on the screen before the next.
    const look = () => (colors() >= 16 ? requestAnimationFrame(resolve) : requestAnimationFrame(look));
    look();
  });

/** In the page: `awaitUnit` resolves with the time of the first frame after a unit's pictures were all painted. */
function installWatch() {
  let pressed = 0;
  window.addEventListener("keydown", (event) => (pressed = event.timeStamp), { capture: true });
  const label = (canvas) => canvas.getAttribute("aria-label") ?? "";
  const names = (text, address) => text.split(/\s|,(?!\d)/).some((word) => word.replace(/[·:,.]+$/, "") === address);
  const painted = (address, wanted) => {
    const labelled = [...document.querySelectorAll("canvas[role=img]")].filter((each) => names(label(each), address));
    const inColumn = (name) => labelled.some((each) => each.closest(`[data-column=${name}]`));
    const map = labelled.some((each) => !each.closest("[data-column]"));
    return (!wanted.kernel || (inColumn("norm") && inColumn("gradient_norm"))) && (!wanted.map || map);
  };
  const awaitUnit = (address, wanted) =>
    new Promise((resolve) => {
      const look = () =>
        painted(address, wanted)
          ? requestAnimationFrame(() => resolve(performance.now()))
          : requestAnimationFrame(look);
      requestAnimationFrame(look);
    });
  window.watch = {
    key: async (address, wanted) => (await awaitUnit(address, wanted)) - pressed,
    address: async (hash, address, wanted) => {
      const begun = performance.now();
      location.hash = hash;
      return (await awaitUnit(address, wanted)) - begun;
    },
    // Views fetched so far, other than the step-through's, which waits for a pause in a run of switches.
    fetched: () =>
      performance
        .getEntriesByType("resource")
        .filter((each) => each.name.includes("/api/views/") && !each.name.includes("/convolution")).length,
  };
  performance.setResourceTimingBufferSize(100_000);
}

async function unitSwitches(page) {
  await page.evaluate(gridPainted);
  await page.keyboard.press("Escape"); // leaves the tour of a first start
  await page.evaluate(installWatch);
  const { layers } = await page.evaluate(async () => (await fetch("/api/layers")).json());
  const convolutions = layers.filter((layer) => layer.has_kernel && layer.shape[1] > 1);
  const stride = Math.max(1, Math.floor(convolutions.length / task.layers));
  const chosen = convolutions.filter((_, index) => index % stride === 0 || index === convolutions.length - 1);
  const switches = [];
  const settle = () => page.waitForLoadState("networkidle");

  const press = async (key, address, kindOf) => {
    await settle();
    const before = await page.evaluate(() => window.watch.fetched());
    const wanted = { kernel: true, map: true };
    const done = page.evaluate(([unit, pictures]) => window.watch.key(unit, pictures), [address, wanted]);
    await page.keyboard.press(key);
    const milliseconds = await done;
    const after = await page.evaluate(() => window.watch.fetched());
    switches.push({ address, milliseconds, kind: kindOf(after - before) });
  };
  // Twice: the page opens on a layer that was already computed, so the first jump must not be to it.
  for (const layer of chosen.slice(1)) {
    await settle();
    const channel = 3;
    const first = `${layer.address}:${channel}`;
    const milliseconds = await page.evaluate(
      ([hash, unit, wanted]) => window.watch.address(hash, unit, wanted),
      [`#unit=${first}`, first, { kernel: true, map: true }],
    );
    switches.push({ address: first, milliseconds, kind: "other layer" });
    for (let step = 1; step <= task.units; step++) {
      await press("l", `${layer.address}:${channel + step}`, (fetched) => (fetched ? "uncached" : "same layer"));
    }
    for (let step = task.units - 1; step >= 0; step--) {
      await press("h", `${layer.address}:${channel + step}`, (fetched) => (fetched ? "cached, fetched" : "cached"));
    }
  }
  return { switches };
}

const browser = await chromium.launch({
  executablePath: process.env.CONVSCOPE_CHROMIUM ?? process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
let server;
let failed = false;
try {
  const page = await (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();
  page.setDefaultTimeout(PATIENCE);
  const begun = performance.now();
  const started = await start(task.command);
  server = started.server;
  await page.goto(started.url);
  if (task.journey === "first-grid") {
    await page.evaluate(gridPainted);
    console.log(JSON.stringify({ seconds: (performance.now() - begun) / 1000 }));
  } else {
    console.log(JSON.stringify(await unitSwitches(page)));
  }
} catch (error) {
  failed = true;
  console.error(error);
} finally {
  await browser.close();
  if (server) await stop(server);
}
process.exitCode = failed ? 1 : 0;
