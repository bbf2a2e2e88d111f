// Answers, timers and events that cross each other on their way: the page shows what was wanted last.

import { afterEach, describe, expect, test, vi } from "vitest";

import { Explorer } from "../src/state/explorer.svelte";
import { Resource } from "../src/state/resource.svelte";
import { RaceState } from "../src/state/train/race.svelte";
import { Training } from "../src/state/train/training.svelte";

/** Something that is answered when the test says so. */
function later<Answer>() {
  const waiting: ((answer: Answer) => void)[] = [];
  return { ask: () => new Promise<Answer>((resolve) => waiting.push(resolve)), answer: (answer: Answer) => waiting.shift()?.(answer), count: () => waiting.length };
}

afterEach(() => vi.unstubAllGlobals());

describe("the address bar", () => {
  function browser(hash: string) {
    const place = { hash, pathname: "/", origin: "" };
    const write = (_state: unknown, _title: string, address: string) => (place.hash = address);
    vi.stubGlobal("location", place);
    vi.stubGlobal("history", { pushState: write, replaceState: write });
    return place;
  }

  test("a link that was pasted a moment ago isn't written over by what was shown before", async () => {
    vi.useFakeTimers();
    const place = browser("#unit=conv1:3");
    const explorer = new Explorer({} as never);
    explorer.follow();
    // The address has changed, and the event that tells of it comes behind the timer.
    place.hash = "#unit=conv2:7";
    await vi.advanceTimersByTimeAsync(1_000);
    expect(place.hash).toBe("#unit=conv2:7");
    explorer.revisit();
    expect(explorer.page.unit).toMatchObject({ layer: "conv2", channel: 7 });
    explorer.page.image = 4;
    explorer.follow();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(place.hash).toContain("image=4");
    vi.useRealTimers();
  });
});

describe("training", () => {
  const explorer = { page: { run: "a", trained: { layer: "" } } } as never;
  const run = (state: string) => ({ id: "a", live: true, state, step: 1, layers: [], recorded: [], events: [] });

  test("an answer of the moment before a pause doesn't set it running again", async () => {
    const asked = later<unknown>();
    const training = new Training(explorer, { run: asked.ask, runs: async () => ({ runs: [], live: "a" }), act: async () => run("paused") } as never);
    training.toLive = () => undefined;
    const first = training.refresh();
    asked.answer(run("running"));
    await first;
    expect(training.state).toBe("running");
    const second = training.refresh();
    await training.act("pause");
    expect(training.state).toBe("paused");
    asked.answer(run("running"));
    await vi.waitFor(() => expect(asked.count()).toBe(1));
    expect(training.state).toBe("paused");
    asked.answer(run("paused"));
    await second;
    expect(training.state).toBe("paused");
  });

  test("nor does one of the moment before a race began end it", async () => {
    vi.stubGlobal("document", { hidden: false });
    const asked = later<unknown>();
    const race = new RaceState({ race: asked.ask } as never);
    const stop = race.follow();
    await race.does(async () => ({ state: "running", racers: [] }) as never);
    asked.answer({ state: "finished", racers: [] });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(race.race?.state).toBe("running");
    stop();
  });
});

test("what is started is what was asked for last, also while it is still to be offered", async () => {
  const got: string[] = [];
  const cache = { peek: () => undefined, known: async () => null, get: async (request: { method: string }) => (got.push(request.method), { arrays: new Map() }) };
  const resource = new Resource({ cache, jobs: new Map(), cancel: () => undefined, serverGone: () => undefined } as never);
  resource.offer({ method: "before" } as never);
  await vi.waitFor(() => expect(resource.offered).toBe(true));
  resource.start({ method: "after" } as never);
  resource.offer({ method: "after" } as never);
  await vi.waitFor(() => expect(resource.current).not.toBeNull());
  expect(got).toEqual(["after"]);
});
