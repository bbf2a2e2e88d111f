// Starts a convscope command, opens its page in Chromium and measures one journey; prints JSON.
//   first-grid: seconds from starting the process to tiles on the contact sheet's canvas
//   scroll: milliseconds between frames while a sheet of 2,048 units scrolls, and how many nodes the page has
//   gallery: the same while every patch of a layer of 2,048 units scrolls by, and how long a still window takes to fill
//   soak: many pages watch one training run; the server's memory over the time, its errors, the frames of each page
//   unit-switches: milliseconds from a key (or a new address) to the unit's kernel, gradient and map on the screen
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";

const { chromium } = createRequire(new URL("../../web/package.json", import.meta.url))("playwright-core");
const task = JSON.parse(process.argv[2]);
const PATIENCE = 120_000;

/** The command as a process, and the URL that it prints. */
async function start(command) {
  const server = spawn(command[0], command.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
  let complaints = "";
  server.stderr.on("data", (bytes) => (complaints += bytes));
  const url = await new Promise((resolve, reject) => {
    let printed = "";
    server.stdout.on("data", (bytes) => {
      printed += bytes;
      const found = /http:\/\/\S+/.exec(printed);
      if (found) resolve(found[0]);
    });
    server.once("exit", (code) => reject(new Error(`${command.join(" ")} ended with ${code}: ${printed}${complaints}`)));
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

/** Resolves when the contact sheet shows tiles: it says so, and holds many colors, unlike a background or a skeleton. */
const gridPainted = () =>
  new Promise((resolve) => {
    const colors = (canvas) => {
      const [width, height] = [Math.min(canvas.width, 256), Math.min(canvas.height, 256)];
      if (!width || !height) return 0;
      return new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer)).size;
    };
    const look = () => {
      const canvas = document.querySelector("canvas[data-sheet][data-painted]");
      // One frame more: what is in the canvas during a frame is on the screen before the next.
      requestAnimationFrame(canvas && colors(canvas) >= 16 ? resolve : look);
    };
    look();
  });

/** In the page: wait for the first frame after all of a unit's pictures were painted. */
function installWatch() {
  let pressed = 0;
  window.addEventListener("keydown", (event) => (pressed = event.timeStamp), { capture: true });
  const unit = () => {
    const there = ["kernel] [data-column=norm]", "kernel] [data-column=gradient_norm]", "map]"].every((place) =>
      document.querySelector(`[data-tour=${place} canvas`),
    );
    return there ? document.querySelector("[data-tour=unit]").dataset.painted : undefined;
  };
  const awaitUnit = (address) =>
    new Promise((resolve, reject) => {
      const begun = performance.now();
      const look = () => {
        if (unit() === address) requestAnimationFrame(() => (unit() === address ? resolve(performance.now()) : look()));
        else if (performance.now() - begun < 30_000) requestAnimationFrame(look);
        else reject(new Error(`${address} was asked for, ${unit()} is on the screen`));
      };
      requestAnimationFrame(look);
    });
  window.watch = {
    key: async (address) => (await awaitUnit(address)) - pressed,
    address: async (hash, address) => {
      const begun = performance.now();
      location.hash = hash;
      return (await awaitUnit(address)) - begun;
    },
    /** The kernel's pixels: what the page says it has painted must be seen to change from unit to unit. */
    pixels: () => document.querySelector("[data-tour=kernel] canvas")?.toDataURL() ?? "",
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
  // Between switches everything comes to rest, the step-through too, which starts after a pause. (The page's stream of
  // events never ends, so the network as a whole is never idle.)
  const open = new Set();
  page.on("request", (request) => request.url().includes("/api/views/") && open.add(request));
  for (const end of ["requestfinished", "requestfailed"]) page.on(end, (request) => open.delete(request));
  const settle = async () => {
    for (let quiet = 0; quiet < 6; quiet = open.size ? 0 : quiet + 1) await page.waitForTimeout(50);
  };

  const measure = async (address, kindOf, run) => {
    const [fetched, pixels] = await page.evaluate(() => [window.watch.fetched(), window.watch.pixels()]);
    const milliseconds = await run();
    const after = await page.evaluate(() => [window.watch.fetched(), window.watch.pixels()]);
    if (after[1] === pixels) throw new Error(`${address} is said to be painted, but its kernel looks as before`);
    await settle();
    const later = await page.evaluate(() => window.watch.pixels());
    if (after[1] !== later) throw new Error(`${address} is said to be painted, but its kernel came later`);
    switches.push({ address, milliseconds, kind: kindOf(after[0] - fetched) });
  };
  const jump = (address) =>
    measure(address, () => "other layer", () =>
      page.evaluate(([hash, unit]) => window.watch.address(hash, unit), [`#unit=${address}`, address]),
    );
  const press = (key, address, kindOf) =>
    measure(address, kindOf, async () => {
      const done = page.evaluate((unit) => window.watch.key(unit), address);
      await page.keyboard.press(key);
      return done;
    });
  // The page opens on the first of them, which is therefore no longer new.
  await settle();
  for (const { address: layer } of chosen.slice(1)) {
    const first = 3;
    await jump(`${layer}:${first}`);
    for (let step = 1; step <= task.units; step++) {
      await press("l", `${layer}:${first + step}`, (fetched) => (fetched ? "uncached" : "same layer"));
    }
    for (let step = task.units - 1; step >= 0; step--) {
      await press("h", `${layer}:${first + step}`, () => "cached");
    }
  }
  return { switches };
}

async function scroll(page) {
  await page.evaluate(gridPainted);
  await page.keyboard.press("Escape"); // leaves the tour of a first start
  await page.evaluate(() => (location.hash = "#unit=2:0&show=weights&tile=64"));
  await page.waitForSelector('canvas[data-painted="weights|2"]');
  return page.evaluate(async () => {
    const scroller = document.querySelector("[role=grid]");
    const frames = [];
    for (let frame = 0, before = performance.now(); frame < 300; frame++) {
      scroller.scrollTop += 40;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      frames.push(now - before);
      before = now;
    }
    if (scroller.scrollTop < 4_000) throw new Error(`it scrolled ${scroller.scrollTop} pixels only`);
    return { frames, nodes: document.querySelectorAll("*").length };
  });
}

async function gallery(page) {
  await page.evaluate(gridPainted);
  await page.keyboard.press("Escape"); // leaves the tour of a first start
  await page.evaluate(async () => {
    const asked = await fetch("/api/study/mine", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
    if (!asked.ok) throw new Error(await asked.text());
    for (let study = { finished: false }; !study.finished; study = await (await fetch("/api/study")).json()) {
      if (study.failure) throw new Error(JSON.stringify(study.failure));
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    location.hash = "#unit=2:0&tab=gallery&thumb=48";
  });
  await page.reload();
  await page.waitForSelector('canvas[data-wall][data-painted="gallery|2"]');
  const scrolled = await page.evaluate(async () => {
    const scroller = document.querySelector("[role=grid]");
    const frames = [];
    for (let frame = 0, before = performance.now(); frame < 300; frame++) {
      scroller.scrollTop += 40;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      frames.push(now - before);
      before = now;
    }
    if (scroller.scrollTop < 8_000) throw new Error(`it scrolled ${scroller.scrollTop} pixels only`);
    return { frames, nodes: document.querySelectorAll("*").length, thumbnails: Number(scroller.dataset.gallery) };
  });
  // At rest: far away, so that nothing in the window was fetched before.
  const filled = await page.evaluate(async () => {
    const scroller = document.querySelector("[role=grid]");
    const canvas = document.querySelector("canvas[data-wall]");
    scroller.scrollTop = scroller.scrollHeight;
    const begun = performance.now();
    for (let waited = 0; waited < 2 || !canvas.dataset.painted; waited++) await new Promise(requestAnimationFrame);
    const took = performance.now() - begun;
    const { width, height } = canvas;
    const colors = new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer)).size;
    if (colors < 256) throw new Error(`it is said to be painted, but has ${colors} colors`);
    return took;
  });
  return { ...scrolled, filled };
}

/** Let `task.pages` pages, the first of which is open, watch for `task.seconds`. */
async function soak(page, server) {
  const [errors, frames] = [[], []];
  for (let number = 0; number < task.pages; number++) {
    const each = number ? await page.context().newPage() : page;
    frames.push(0);
    each.on("response", (response) => {
      if (response.status() >= 500) errors.push(`${response.status()} ${response.url()}`);
      if (response.status() === 200 && new URL(response.url()).pathname.endsWith("/frame")) frames[number]++;
    });
    each.on("pageerror", (error) => errors.push(String(error)));
    await (number ? each.goto(page.url()) : each.reload());
    await each.locator("canvas").first().waitFor({ timeout: PATIENCE });
  }
  frames.fill(0);
  const begun = performance.now();
  const memory = [];
  while (performance.now() - begun < 1000 * task.seconds) {
    const [, kilobytes] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"));
    memory.push([(performance.now() - begun) / 1000, Number(kilobytes) / 1024]);
    await new Promise((resolve) => setTimeout(resolve, 5_000));
  }
  return { errors, frames, memory };
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
  } else if (task.journey === "scroll") {
    console.log(JSON.stringify(await scroll(page)));
  } else if (task.journey === "gallery") {
    console.log(JSON.stringify(await gallery(page)));
  } else if (task.journey === "soak") {
    console.log(JSON.stringify(await soak(page, server)));
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
