// A training run as this page sees it: its newest frame, what was recorded of it, its numbers, and what can be done to it.

import { getContext, setContext } from "svelte";

import { Failure, isAbort, toFailure } from "../../api/failure";
import type { Job } from "../../api/schema";
import type { NewRun, Offer, Panel, Run, RunDetails, RunEvent, Runs, Settings, Statistics } from "../../api/training";
import type { View } from "../../api/view";
import { newJob } from "../../sources/cache";
import type { Action, TrainingSource } from "../../sources/training";
import type { Explorer } from "../explorer.svelte";
import { FrameFeed } from "./feed.svelte";
import { INPUT } from "./pictures";
import { RecordedCache, RecordedMoment, RecordedSteps } from "./recorded.svelte";
import { readCurves, type Series } from "./series";
import { stepBefore } from "./steps";

const POLL = 1_500;
const FAST_POLL = 1_000;
const POINTS = 600;
const MOST_IMAGES = 4;
const OPENING_POLL = 600;
const PLAY = 125;
const MARKED = new Set(["setting", "not_finite", "failed", "dropped", "skipped"]);

/** A run at a step: what one column of the panels shows. */
export interface Moment {
  readonly run: string;
  readonly frame: View | null;
  readonly step: number | null;
  readonly live: boolean;
}

export class Training {
  offer = $state.raw<Offer | null>(null);
  runs = $state.raw<Run[]>([]);
  private found = $state.raw<RunDetails | null>(null);
  curves = $state.raw<ReadonlyMap<string, Series>>(new Map());
  /** Why nothing can be shown, and why what was asked for wasn't done. */
  failure = $state.raw<Failure | null>(null);
  refused = $state.raw<Failure | null>(null);
  notes = $state.raw<readonly string[]>([]);
  busy = $state<Action | "create" | "load" | null>(null);
  /** How far what is being set up is: reading many images takes its time. */
  job = $state.raw<Job | null>(null);
  /** The command that opened this page is setting up its run. */
  preparing = $state(false);
  private jobName = "";
  private unfollow: (() => void) | null = null;
  /** Counts what was done to a run from here. */
  private done = 0;
  gone = $state(false);
  playing = $state(false);
  drawer = $state(false);
  /** Layers whose panels are in view, top to bottom. */
  visible = $state.raw<readonly string[]>([]);
  readonly feed: FrameFeed;
  readonly cache: RecordedCache;
  readonly recordedSteps: RecordedSteps;
  readonly recorded: RecordedMoment;
  readonly other: RecordedMoment;

  constructor(
    readonly explorer: Explorer,
    readonly source: TrainingSource,
  ) {
    this.feed = new FrameFeed(source);
    this.cache = new RecordedCache(source);
    this.recordedSteps = new RecordedSteps(source);
    this.recorded = new RecordedMoment(this.cache, this.recordedSteps);
    this.other = new RecordedMoment(this.cache, new RecordedSteps(source));
  }

  readonly id = $derived.by(() => this.explorer.page.run);
  /** The chosen run; null until it is here, also while it is still the last one that is. */
  readonly detail: RunDetails | null = $derived.by(() => (this.found?.id === this.id ? this.found : null));
  readonly live = $derived.by(() => this.detail?.live ?? false);
  readonly statistics: Statistics | null = $derived.by(() => {
    // Numbers that come with every frame are newer than those of the run.
    const { frame } = this.feed;
    const inFrame = frame && frame.meta.run === this.id ? (frame.meta.statistics as Statistics) : null;
    const known = this.detail?.statistics ?? null;
    return this.live && inFrame && (!known || inFrame.step >= known.step) ? { ...inFrame, state: known?.state ?? inFrame.state } : known;
  });
  readonly state = $derived.by(() => this.detail?.state ?? "recorded");
  readonly running = $derived.by(() => this.live && this.state === "running");
  /** The images of this run among those that are here; "" where they aren't. */
  readonly dataId = $derived.by(() => this.offer?.data.find((data) => data.id === this.detail?.data || data.title === this.detail?.data)?.id ?? "");
  /** Where the run lies, as the command line and Python name it. */
  readonly folder = $derived.by(() => `${this.offer?.place || "runs"}/${this.id}`);
  /** The command that goes on with this run, or shows it where it is somebody else's. */
  readonly command = $derived.by(() => {
    const { detail, folder, offer } = this;
    if (!detail?.definition) return `convscope runs ${offer?.place || "runs"}`;
    const preset = offer?.presets.find((each) => each.name === detail.network)?.name;
    return `convscope train ${preset ?? "NETWORK.yaml"} --run ${folder}`;
  });
  readonly settings: Settings | null = $derived.by(() => this.detail?.settings ?? null);
  private readonly layers: readonly Panel[] = $derived.by(() => this.detail?.layers ?? []);
  /** Of somebody else's run it is its records that tell which layers have kernels, and that there are images. */
  readonly panels: readonly Panel[] = $derived.by(() => {
    const { layers, recordedSteps } = this;
    const known = layers.map((panel) => (panel.layout || !recordedSteps.of("kernels", panel.name).length ? panel : { ...panel, layout: "slices" }));
    const images = recordedSteps.of("images", INPUT).length > 0 && !layers.some((panel) => panel.name === INPUT);
    return images ? [INPUT_PANEL, ...known] : known;
  });
  readonly classNames: readonly string[] = $derived.by(() => this.detail?.class_names ?? []);
  readonly events: readonly RunEvent[] = $derived.by(() => this.detail?.events ?? []);
  /** What deserves a mark on curves and slider. */
  readonly marks: readonly RunEvent[] = $derived.by(() => this.events.filter((event) => MARKED.has(event.kind)));
  /** Since which step the loss of a live run is no number any more; null while it is one. */
  readonly broken = $derived.by(() => {
    const { statistics, events } = this;
    if (!this.live || !statistics || statistics.step === 0 || statistics.loss !== null) return null;
    return events.findLast((event) => event.kind === "not_finite")?.step ?? null;
  });
  readonly steps: readonly number[] = $derived.by(() => this.recordedSteps.all);
  /** The recorded step that is shown; null while the newest of a live run is. */
  readonly shownStep: number | null = $derived.by(() => {
    const { step } = this.explorer.page;
    if (step !== null) return stepBefore(this.steps, step);
    return this.live ? null : (this.steps.at(-1) ?? null);
  });
  readonly followsLive = $derived.by(() => this.live && this.shownStep === null);
  readonly moment: Moment = $derived.by(() => {
    const frame = this.followsLive ? this.feed.frame : this.recorded.view;
    return { run: this.id, frame, step: frame ? Number(frame.meta.step) : this.shownStep, live: this.followsLive };
  });
  readonly besideAt = $derived.by(() => {
    const match = /^(.+)@(\d+)$/.exec(this.explorer.page.beside);
    return match ? { run: match[1], step: Number(match[2]) } : null;
  });
  readonly besideMoment: Moment | null = $derived.by(() => {
    const at = this.besideAt;
    const frame = this.other.view;
    return at && { run: at.run, frame, step: stepBefore(this.other.steps.all, at.step) ?? at.step, live: false };
  });
  readonly layer: Panel | null = $derived.by(() => this.panels.find((panel) => panel.name === this.explorer.page.trained.layer) ?? null);
  readonly unit: number | null = $derived.by(() => {
    const { channel } = this.explorer.page.trained;
    return this.layer && channel !== null ? Math.min(channel, this.layer.shape[0] - 1) : null;
  });
  /** What the panels need arrays of. */
  private readonly wanted: readonly string[] = $derived.by(() => {
    const names = new Set([...this.visible, this.layer?.name]);
    return this.panels.filter((panel) => names.has(panel.name)).map((panel) => panel.name);
  });

  // Opening and following

  /** Ask what there is, and choose a run to show. */
  async open(): Promise<void> {
    try {
      const [offer, runs] = await Promise.all([this.source.offer(), this.source.runs()]);
      this.offer = offer;
      this.runs = runs.runs;
      this.failure = null;
      this.gone = false;
      const { page } = this.explorer;
      // The command is setting up a run of its own: wait for that one.
      if (offer.job && !runs.live) {
        this.preparing = true;
        this.wait(offer.job);
        setTimeout(() => void this.open(), OPENING_POLL);
        return;
      }
      if (this.preparing) this.waited();
      this.preparing = false;
      if (offer.failure && !runs.live) this.refused = new Failure(offer.failure);
      if (!page.run && page.part !== "new") page.run = runs.live ?? runs.runs[0]?.id ?? "";
    } catch (error) {
      this.failed(error);
      if (this.gone) setTimeout(() => void this.open(), POLL);
    }
  }

  /** Follow the chosen run; call inside an effect. */
  followRun(id: string): (() => void) | undefined {
    this.found = null;
    this.curves = new Map();
    this.refused = null;
    this.failure = null;
    this.recordedSteps.clear(id);
    if (!id) return undefined;
    const abort = new AbortController();
    void this.poll(id, abort.signal);
    return () => abort.abort();
  }

  /** Keep frames and recorded moments in step with what is looked at; call inside an effect. */
  followFrames(active: boolean): void {
    const { wanted, id, followsLive, shownStep, besideAt, detail } = this;
    const some = active && wanted.length > 0 && detail?.id === id;
    this.feed.follow(some && followsLive ? id : "", wanted, Math.min(MOST_IMAGES, this.explorer.page.picture + 1));
    this.recorded.show(some && !followsLive && shownStep !== null ? { run: id, step: shownStep, layers: wanted } : null);
    this.other.show(some && besideAt ? { ...besideAt, layers: wanted } : null);
  }

  /** Learn which steps there are of the run beside; call inside an effect. */
  followBeside(run: string | undefined): (() => void) | undefined {
    if (!run) return undefined;
    const abort = new AbortController();
    this.source.run(run, abort.signal).then(
      (found) => this.other.steps.take(run, found.recorded, abort.signal),
      (error: unknown) => {
        if (!isAbort(error)) this.refused = toFailure(error);
      },
    );
    this.other.steps.clear(run);
    return () => abort.abort();
  }

  private async poll(id: string, signal: AbortSignal): Promise<void> {
    let curvesOf = "";
    while (!signal.aborted) {
      if (!document.hidden) {
        await this.refresh(id, signal);
        const state = `${this.detail?.step} ${this.detail?.state}`;
        if (state !== curvesOf && this.detail && !signal.aborted) {
          curvesOf = state;
          await this.refreshCurves(id, signal);
        }
      }
      await new Promise((resolve) => setTimeout(resolve, this.running ? FAST_POLL : POLL));
    }
  }

  async refresh(id = this.id, signal?: AbortSignal): Promise<void> {
    try {
      let done: number;
      let answers: [RunDetails, Runs];
      // An answer that was on its way while something was done here may tell of the moment before that.
      do {
        ({ done } = this);
        answers = await Promise.all([this.source.run(id, signal), this.source.runs(signal)]);
      } while (done !== this.done);
      const [detail, runs] = answers;
      if (signal?.aborted || id !== this.id) return;
      this.found = this.found ? kept(this.found, detail) : detail;
      this.runs = runs.runs;
      this.failure = null;
      this.gone = false;
      this.settle(detail);
      await this.recordedSteps.take(id, detail.recorded, signal);
    } catch (error) {
      if (!signal?.aborted && !isAbort(error)) this.failed(error);
    }
  }

  private async refreshCurves(id: string, signal: AbortSignal): Promise<void> {
    try {
      const found = await this.source.curves(id, POINTS, signal);
      if (!signal.aborted) this.curves = readCurves(found.curves);
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) this.failed(error);
    }
  }

  private failed(error: unknown): void {
    const failure = toFailure(error);
    if (failure.serverGone) this.gone = true;
    else this.failure = failure;
  }

  /** A unit of this network to look at, where the address has none. */
  private settle(detail: RunDetails): void {
    if (detail.layers.some((panel) => panel.name === this.explorer.page.trained.layer)) return;
    const first = detail.layers.find((panel) => panel.layout) ?? detail.layers[0];
    if (first) this.explorer.page.trained = { layer: first.name, channel: 0, position: null };
  }

  // Doing

  private wait(job: string): void {
    if (this.jobName === job) return;
    this.waited();
    this.jobName = job;
    this.unfollow = this.source.follow(job, (heard) => (this.job = heard));
  }

  private waited(): void {
    this.unfollow?.();
    this.unfollow = null;
    this.jobName = "";
    this.job = null;
  }

  /** Something that may take long, with its progress. */
  private async long<Answer>(what: "create" | "load", work: (job: string) => Promise<Answer>): Promise<Answer | null> {
    const job = newJob();
    this.wait(job);
    try {
      return await this.does(what, () => work(job));
    } finally {
      this.waited();
    }
  }

  /** Give up what is being set up. */
  cancel(): void {
    if (this.jobName) this.source.cancel(this.jobName).catch(() => undefined);
  }

  /** Do something to a run; what it answers, or null where it was refused. */
  private async does<Answer>(what: NonNullable<Training["busy"]>, work: () => Promise<Answer>): Promise<Answer | null> {
    if (this.busy) return null;
    this.busy = what;
    this.refused = null;
    try {
      return await work();
    } catch (error) {
      const failure = toFailure(error);
      if (failure.serverGone) this.gone = true;
      else if (failure.description.kind !== "cancelled") this.refused = failure;
      return null;
    } finally {
      this.busy = null;
    }
  }

  async act(action: Action): Promise<void> {
    const { id } = this;
    if (!this.live) return;
    if (action !== "pause") this.toLive();
    const run = await this.does(action, () => this.source.act(id, action));
    if (!run) return;
    this.done++;
    // Begun anew, it is another run; the old one stays as it was recorded.
    if (run.id !== id) this.choose(run.id);
    else if (this.detail) this.found = { ...this.detail, ...run };
  }

  toggleRun(): void {
    void this.act(this.running ? "pause" : "run");
  }

  /** Change settings from the next step on; true when it was done. */
  async change(settings: Settings): Promise<boolean> {
    const { id } = this;
    this.refused = null;
    try {
      const changed = await this.source.change(id, settings);
      this.done++;
      if (this.detail?.id === id) this.found = { ...this.detail, settings: changed.settings, events: [...this.detail.events, ...changed.events] };
      return true;
    } catch (error) {
      this.refused = toFailure(error);
      return false;
    }
  }

  async create(run: NewRun, start: boolean): Promise<boolean> {
    const made = await this.long("create", (job) => this.source.create({ ...run, replace: true }, job));
    if (!made) return false;
    this.choose(made.id);
    if (start) await this.does("run", () => this.source.act(made.id, "run"));
    return true;
  }

  /** Go on with a recorded run where it stopped. */
  async resume(): Promise<void> {
    const { id } = this;
    const run = await this.long("load", (job) => this.source.resume(id, null, false, job));
    if (run) await this.refresh(run.id);
  }

  /** Look into the network as it is now, with everything the other pages have. */
  async explore(): Promise<void> {
    const { id, explorer } = this;
    const session = await this.long("load", (job) => this.source.explore(id, job));
    if (!session) return;
    explorer.page.tab = "explore";
    explorer.startAnew();
  }

  /** The run as a file, or null where it can't be written that way. */
  snapshot(kind: "safetensors" | "convnetjs"): Promise<Blob | null> {
    const { id } = this;
    return this.does("load", () => this.source.snapshot(id, kind));
  }

  async load(file: File, data: string): Promise<boolean> {
    const name = file.name.replace(/\.[^.]*$/, "");
    const made = await this.long("load", (job) => this.source.load(file, name, data, job));
    if (!made) return false;
    this.choose(made.run.id);
    this.notes = made.notes;
    return true;
  }

  /** End a live run; what was recorded of it stays. */
  async close(run: string): Promise<void> {
    await this.does("load", () => this.source.close(run));
    await this.refresh();
  }

  // Choosing

  choose(run: string): void {
    const { page } = this.explorer;
    this.playing = false;
    this.notes = [];
    page.run = run;
    page.step = null;
    page.beside = "";
    page.sample = null;
    page.part = "network";
  }

  select(layer: string, channel: number): void {
    this.explorer.page.trained = { layer, channel, position: null };
  }

  /** A unit's own name: that of its class, where the layer's units are the classes' scores. */
  unitName(layer: string, unit: number | null): string {
    const last = this.panels.at(-1);
    return unit !== null && layer === last?.name && last.shape[0] === this.classNames.length ? this.classNames[unit] : "";
  }

  stepUnit(by: number): void {
    if (this.layer && this.unit !== null) this.select(this.layer.name, Math.min(this.layer.shape[0] - 1, Math.max(0, this.unit + by)));
  }

  stepLayer(by: 1 | -1): void {
    const at = this.panels.findIndex((panel) => panel.name === this.layer?.name);
    const next = this.panels[at < 0 ? 0 : at + by];
    if (next) this.select(next.name, Math.min(this.unit ?? 0, next.shape[0] - 1));
  }

  // Time

  toLive(): void {
    this.playing = false;
    this.explorer.page.step = null;
  }

  showStep(step: number): void {
    this.explorer.page.step = step;
  }

  /** The recorded step before or after the one shown; past the last one comes the newest. */
  stepTime(by: 1 | -1): void {
    const { steps } = this;
    if (!steps.length) return;
    const at = this.shownStep === null ? steps.length : steps.indexOf(this.shownStep);
    const next = steps[at + by];
    if (next !== undefined) this.showStep(next);
    else if (by > 0) this.toLive();
  }

  /** Replay from the step that is shown; call inside an effect. */
  play(): (() => void) | undefined {
    if (!this.playing) return undefined;
    const timer = setInterval(() => {
      // As fast as the pictures come, not faster.
      if (this.recorded.loading) return;
      const at = this.shownStep === null ? -1 : this.steps.indexOf(this.shownStep);
      if (at >= this.steps.length - 1) this.playing = false;
      else this.showStep(this.steps[at + 1]);
    }, PLAY);
    return () => clearInterval(timer);
  }

  togglePlay(): void {
    const atEnd = this.shownStep === null || this.shownStep === this.steps.at(-1);
    if (!this.playing && atEnd && this.steps.length) this.showStep(this.steps[0]);
    this.playing = !this.playing && this.steps.length > 1;
  }

  /** Hold what is shown beside what comes; again: take it away. */
  toggleBeside(): void {
    const { page } = this.explorer;
    const step = this.shownStep ?? this.steps.at(-1);
    page.beside = page.beside || step === undefined ? "" : `${this.id}@${step}`;
  }
}

/** The newer of two, with what is the same in both left as it is: nothing is drawn again for it. */
function kept(before: RunDetails, after: RunDetails): RunDetails {
  const found: Record<string, unknown> = { ...after };
  for (const [name, value] of Object.entries(before)) {
    if (typeof value === "object" && JSON.stringify(value) === JSON.stringify(found[name])) found[name] = value;
  }
  return found as RunDetails;
}

const INPUT_PANEL: Panel = { name: INPUT, kind: INPUT, title: INPUT, details: "", shape: [0, 0, 0], parameters: 0, count: "", layout: "" };

const KEY = Symbol("training");

export const provideTraining = (training: Training): Training => setContext(KEY, training);
export const useTraining = (): Training => getContext<Training>(KEY);
