// What the person looks at: the address bar's state, the network it is about, and everything that follows from both.

import { getContext, setContext } from "svelte";
import { SvelteMap } from "svelte/reactivity";

import { toFailure, type Failure } from "../api/failure";
import type { ImageDescription, Job, Layer, Session, SkippedImage } from "../api/schema";
import { NAN, palette, type Palette, type Sign, type Theme } from "../paint/colormap";
import type { View } from "../api/view";
import { ViewCache } from "../sources/cache";
import type { Source, ViewRequest } from "../sources/source";
import { t } from "../strings";
import { parseAddress, samePosition, unitAddress, type Position } from "./address";
import { nearest } from "./nearest";
import { MOST_IMAGES, shownSheet, shownSource } from "./requests";
import { Offers } from "./offers.svelte";
import { Resource, type Surroundings } from "./resource.svelte";
import { StudyState } from "./study.svelte";
import { arcs, isQuiet, spineRows, unfolded } from "./spine";
import { isStep, MAXIMUM_PINS, readHash, SHEETS, writeHash, type PageState, type Sheet } from "./url";

/** What the pointer or the focus is on; everything that belongs to it lights up. */
export interface Hover {
  readonly layer: string;
  readonly channel: number | null;
  readonly position: Position | null;
}

export type Dialog = "search" | "goto" | "keys" | "target" | null;

const HISTORY_PAUSE = 150;
const RETRY_PAUSE = 2_000;
const THEME_KEY = "convscope.theme";

export class Explorer implements Surroundings {
  page = $state<PageState>(readHash(location.hash));
  session = $state.raw<Session | null>(null);
  layers = $state.raw<Layer[]>([]);
  images = $state.raw<ImageDescription[]>([]);
  skipped = $state.raw<SkippedImage[]>([]);
  failure = $state.raw<Failure | null>(null);
  /** Another network than that of `session` is open. */
  replaced = $state(false);
  /** The server doesn't answer; what is here stays. */
  gone = $state(false);
  hover = $state.raw<Hover | null>(null);
  dialog = $state<Dialog>(null);
  tour = $state<number | null>(null);
  notice = $state.raw<{ text: string; at: number } | null>(null);
  systemTheme = $state<Theme>("light");
  readonly jobs = new SvelteMap<string, Job>();
  /** Layer address -> what is wrong with its units on the chosen image. */
  readonly lamps = new SvelteMap<string, { dead: number; nan: number; units: number }>();
  readonly cache: ViewCache;
  readonly study: StudyState;
  readonly offers: Offers;
  private readonly resources: Resource[] = [];
  private readonly listeners = new Map<string, (preview: number) => void>();
  private written = "";
  private writtenState: PageState;
  /** The address bar's hash as this page last read or wrote it. */
  private seen = location.hash;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private unfollow: (() => void) | null = null;

  readonly byAddress = $derived(new Map(this.layers.map((layer) => [layer.address, layer])));
  readonly rows = $derived(spineRows(this.layers));
  readonly visibleRows = $derived(unfolded(this.rows, new Set(this.page.closed)));
  readonly arcs = $derived(arcs(this.visibleRows, this.layers));
  readonly widest = $derived(this.layers.reduce((most, layer) => Math.max(most, layer.shape?.[0] ?? 0), 1));
  readonly layer = $derived(this.byAddress.get(this.page.unit.layer) ?? null);
  readonly channel = $derived(this.layer && !this.layer.opaque ? Math.min(this.page.unit.channel ?? 0, this.layer.shape[0] - 1) : null);
  readonly address = $derived(this.layer && this.channel !== null ? unitAddress(this.layer.address, this.channel) : "");
  readonly image = $derived(this.images.find((image) => image.id === this.page.image) ?? this.images[0] ?? null);
  readonly sheet = $derived(this.layer ? shownSheet(this.layer, this.page.sheet) : this.page.sheet);
  readonly of = $derived(this.layer ? shownSource(this.layer, this.page.of) : this.page.of);
  readonly gradientImages = $derived(
    this.page.over === "all"
      ? this.images.slice(0, MOST_IMAGES).map((image) => image.id)
      : this.image
        ? [this.image.id]
        : [],
  );
  readonly theme = $derived<Theme>(this.page.theme ?? this.systemTheme);
  readonly imageSize = $derived<[number, number]>(this.session?.network.image_size ?? [1, 1]);
  /** A link's fingerprint that isn't this network's. */
  readonly wrongNetwork = $derived(
    this.session && this.page.network && !this.session.network.fingerprint.startsWith(this.page.network)
      ? this.page.network
      : null,
  );

  constructor(readonly source: Source) {
    this.cache = new ViewCache(source);
    this.study = new StudyState(this);
    this.offers = new Offers(source);
    this.writtenState = $state.snapshot(this.page) as PageState;
    if (!this.page.theme) this.page.theme = this.keptTheme();
  }

  /** Load the network; called once, and again when the server is back. */
  async open(): Promise<void> {
    try {
      // Before the first answer: opening the network is a job too.
      this.unfollow ??= this.source.follow((job) => this.heard(job), () => this.study.grown(), () => void this.ask(), (opening) => this.reopened(opening));
      const [session, layers, listed] = await Promise.all([this.source.session(), this.source.layers(), this.source.images()]);
      const other = this.session && this.session.network.fingerprint !== session.network.fingerprint;
      if (other) return location.reload();
      this.session = session;
      this.layers = layers;
      this.images = listed.images;
      this.skipped = listed.skipped ?? [];
      this.failure = null;
      this.gone = false;
      if (!this.wrongNetwork) this.settle();
      void this.study.refresh();
      for (const resource of this.resources) if (resource.failure?.serverGone) resource.retry();
    } catch (error) {
      this.failure = toFailure(error);
      if (this.failure.serverGone) this.serverGone();
    }
  }

  /** Give the state this network's name and a layer to look at. */
  settle(): void {
    if (!this.session) return;
    this.page.network = this.session.network.fingerprint.slice(0, 12);
    const { unit } = this.page;
    const { layer } = this;
    if (!layer) {
      const near = unit.layer ? nearest(unit.layer, [...this.byAddress.keys()]) : null;
      const first = this.layers.find((each) => each.has_kernel) ?? this.layers.find((each) => !each.opaque);
      const shown = near ?? first?.address;
      if (shown && unit.layer) this.say(t("unknownLayer", { layer: unit.layer, shown }));
      if (shown) this.page.unit = { layer: shown, channel: 0, position: null };
    } else if (!layer.opaque && unit.channel !== null && unit.channel >= layer.shape[0]) {
      this.say(t("unknownUnit", { layer: layer.address, units: layer.shape[0], unit: unit.channel }));
      this.page.unit = { layer: layer.address, channel: layer.shape[0] - 1, position: null };
    }
  }

  resource(): Resource {
    const made = new Resource(this);
    this.resources.push(made);
    return made;
  }

  /** The layer whose units are the classes: the last one with a kernel, if it has one unit per class. */
  private readonly classLayer = $derived.by(() => {
    const last = this.layers.findLast((layer) => layer.has_kernel && !layer.opaque);
    const network = this.session?.network;
    return last && network && last.shape[0] === network.classes && network.class_names.length === network.classes ? last.address : "";
  });

  /** A unit's own name: that of its class, where units are classes; else "". */
  unitName(layer: string, channel: number | null): string {
    return layer !== "" && layer === this.classLayer && channel !== null ? (this.session?.network.class_names[channel] ?? "") : "";
  }

  /** What the person is being told to wait for. */
  waiting(): Resource[] {
    return this.resources.filter((resource) => resource.phase === "message" || resource.phase === "long");
  }

  serverGone(): void {
    this.gone = true;
    this.unfollow?.();
    this.unfollow = null;
    clearTimeout(this.retryTimer);
    this.retryTimer = setTimeout(() => void this.open(), RETRY_PAUSE);
  }

  /** Another network is open now: nothing here is about it, and no address of the old one means anything. */
  private reopened(opening: number): void {
    if (!this.session || this.session.opening === opening) return;
    // Someone who trains isn't interrupted; whoever goes back to exploring starts anew.
    if (this.page.tab === "train") this.replaced = true;
    else this.startAnew();
  }

  /** Load everything again, for a network that no address here is about. */
  startAnew(): void {
    history.replaceState(null, "", `${location.pathname}#tab=${this.page.tab === "train" ? "explore" : this.page.tab}`);
    location.reload();
  }

  /** Look at the network again that the server was started with. */
  async goBack(): Promise<void> {
    try {
      await this.source.goBack();
    } catch (error) {
      this.say(toFailure(error).description.what);
    }
  }

  /** The line of events broke: is the server still there? */
  private async ask(): Promise<void> {
    if (!this.session || this.gone) return;
    try {
      this.reopened((await this.source.session()).opening);
    } catch (error) {
      if (toFailure(error).serverGone) this.serverGone();
    }
  }

  preview = (job: string, after: number, signal: AbortSignal) => this.source.preview(job, after, signal);

  /** Be told of a job's previews, for what is no resource; returns how to stop. */
  listen(job: string, listener: (preview: View) => void): () => void {
    const abort = new AbortController();
    let seen = 0;
    this.listeners.set(job, (number) => {
      const after = seen;
      seen = number;
      this.source.preview(job, after, abort.signal).then(
        (view) => view && !abort.signal.aborted && listener(view),
        () => undefined, // The next one may come through; the end will.
      );
    });
    return () => {
      abort.abort();
      this.listeners.delete(job);
    };
  }

  /** A resource that nobody looks at any more. */
  release(resource: Resource): void {
    resource.stop();
    const at = this.resources.indexOf(resource);
    if (at >= 0) this.resources.splice(at, 1);
  }

  cancel(job: string): void {
    this.source.cancel(job).catch(() => undefined); // The request itself is aborted too; that alone stops the work.
  }

  /** Fetch quietly what is likely to be wanted next. */
  prefetch(request: ViewRequest | null): void {
    if (request && !this.gone) this.cache.get(request, new AbortController().signal).catch(() => undefined);
  }

  palette = (sign: Sign): Palette => palette(sign, sign === "signed" ? this.page.signed : this.page.positive, this.theme);

  /** A palette's marks with black … mid-gray … white: the bar of pictures whose channels are red, green and blue. */
  grayBar({ colors }: Palette): Uint32Array {
    const gray = palette("signed", "gray", this.theme).colors.slice();
    gray.set(colors.subarray(NAN), NAN);
    return gray;
  }

  // Choosing

  selectLayer(address: string): void {
    const layer = this.byAddress.get(address);
    if (!layer || address === this.page.unit.layer) return;
    const channel = layer.opaque ? null : Math.min(this.page.unit.channel ?? 0, layer.shape[0] - 1);
    this.page.unit = { layer: address, channel, position: null };
  }

  selectUnit(channel: number, layer = this.page.unit.layer, position: Position | null = null): void {
    const { unit } = this.page;
    if (unit.layer === layer && unit.channel === channel && samePosition(unit.position, position)) return;
    this.page.unit = { layer, channel, position };
  }

  selectPosition(position: Position | null): void {
    if (this.channel !== null && this.layer) this.page.unit = { layer: this.layer.address, channel: this.channel, position };
  }

  /** Go to an address that is known to exist here. */
  goTo(text: string): void {
    const address = parseAddress(text);
    if (!address || !this.byAddress.has(address.layer)) return;
    if (address.channel === null) this.selectLayer(address.layer);
    else this.selectUnit(address.channel, address.layer, address.position);
  }

  /** The next layer worth looking at, plumbing skipped. */
  stepLayer(by: 1 | -1): void {
    const useful = this.layers.filter((layer) => !layer.opaque && !isQuiet(layer));
    const at = useful.findIndex((layer) => layer.address === this.page.unit.layer);
    const next = useful[at < 0 ? 0 : at + by];
    if (next) this.selectLayer(next.address);
  }

  stepImage(by: 1 | -1): void {
    const at = this.images.findIndex((image) => image.id === this.image?.id);
    const next = this.images[at + by];
    if (next) this.page.image = next.id;
  }

  showSheet(number: number): void {
    const sheet: Sheet | undefined = SHEETS[number - 1];
    if (sheet) this.page.sheet = sheet;
  }

  /** Pin or unpin a unit; false when there is no room. */
  pin(address: string): boolean {
    if (this.page.pins.includes(address)) this.page.pins = this.page.pins.filter((pin) => pin !== address);
    else if (this.page.pins.length >= MAXIMUM_PINS) return false;
    else this.page.pins = [...this.page.pins, address];
    return true;
  }

  toggle(list: "folded" | "closed", name: string): void {
    const now = this.page[list];
    this.page[list] = now.includes(name) ? now.filter((each) => each !== name) : [...now, name];
  }

  say(text: string): void {
    this.notice = { text, at: Date.now() };
  }

  addImage(image: ImageDescription): void {
    if (!this.images.some((each) => each.id === image.id)) this.images = [...this.images, image];
    this.page.image = image.id;
  }

  // Theme

  private keptTheme(): Theme | null {
    try {
      const kept = localStorage.getItem(THEME_KEY);
      return kept === "light" || kept === "dark" ? kept : null;
    } catch {
      return null; // Storage can be switched off.
    }
  }

  /** System, light, dark, and round again. */
  nextTheme(): void {
    const order: (Theme | null)[] = [null, "light", "dark"];
    this.page.theme = order[(order.indexOf(this.page.theme) + 1) % order.length];
    try {
      if (this.page.theme) localStorage.setItem(THEME_KEY, this.page.theme);
      else localStorage.removeItem(THEME_KEY);
    } catch {
      // It lasts for this page, then.
    }
  }

  // Address bar

  get link(): string {
    return `${location.origin}${location.pathname}#${writeHash($state.snapshot(this.page) as PageState)}`;
  }

  /** Keep the address bar in step; call inside an effect. */
  follow(): () => void {
    const state = $state.snapshot(this.page) as PageState;
    const timer = setTimeout(() => {
      // Changed from outside, and the event that tells of it is still on its way: that is what is wanted now.
      if (location.hash !== this.seen) return;
      const hash = writeHash(state);
      if (hash === this.written) return;
      const step = this.written !== "" && isStep(this.writtenState, state);
      history[step ? "pushState" : "replaceState"](null, "", `#${hash}`);
      this.seen = location.hash;
      this.written = hash;
      this.writtenState = state;
    }, HISTORY_PAUSE);
    return () => clearTimeout(timer);
  }

  /** The address bar changed from outside: back, forward, or a pasted link. */
  revisit(): void {
    const hash = location.hash.slice(1);
    this.seen = location.hash;
    if (hash === this.written) return;
    const theme = this.page.theme;
    const state = readHash(hash);
    this.written = hash;
    this.writtenState = state;
    this.page = { ...state, theme: state.theme ?? theme };
    if (this.session && !this.wrongNetwork) this.settle();
  }

  private heard(job: Job): void {
    this.study.heard(job);
    if (job.preview) this.listeners.get(job.id)?.(job.preview);
    if (job.preview) for (const resource of this.resources) resource.previewed(job.id, job.preview);
    if (job.state === "done" || job.state === "failed" || job.state === "cancelled") this.jobs.delete(job.id);
    else this.jobs.set(job.id, job);
  }
}

const KEY = Symbol("explorer");

export const provideExplorer = (explorer: Explorer): Explorer => setContext(KEY, explorer);
export const useExplorer = (): Explorer => getContext<Explorer>(KEY);
