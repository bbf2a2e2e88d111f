// A run before it begins: network text as it is being checked, images, settings, seed.

import { isAbort, toFailure, type Failure } from "../../api/failure";
import type { CheckedDefinition, DataSource, Offer, Preset, SettingValue, Settings } from "../../api/training";
import type { TrainingSource } from "../../sources/training";

const PAUSE = 150;

export class Draft {
  preset = $state("");
  text = $state("");
  data = $state("");
  seed = $state(0);
  name = $state("");
  /** What differs from the preset's settings. */
  changed = $state<Record<string, SettingValue>>({});
  checked = $state.raw<CheckedDefinition | null>(null);
  checking = $state(false);
  failure = $state.raw<Failure | null>(null);

  constructor(
    readonly offer: Offer,
    private readonly source: Pick<TrainingSource, "check">,
  ) {
    this.choose(offer.default_preset);
  }

  readonly chosen: Preset | null = $derived.by(() => this.offer.presets.find((preset) => preset.name === this.preset) ?? null);
  readonly edited = $derived.by(() => this.chosen !== null && this.text.trim() !== this.chosen.text.trim());
  readonly images: DataSource | null = $derived.by(() => this.offer.data.find((data) => data.id === this.data) ?? null);
  readonly settings: Settings = $derived.by(() => ({ ...(this.chosen?.settings ?? {}), ...this.changed }));
  readonly ready = $derived.by(() => this.checked !== null && this.checked.error === null && this.images !== null && !this.images.missing);

  /** Take a preset: its text, its settings, and the images it was made for where they are here. */
  choose(name: string): void {
    const preset = this.offer.presets.find((each) => each.name === name) ?? this.offer.presets[0];
    if (!preset) return;
    this.preset = preset.name;
    this.text = preset.text;
    this.changed = {};
    const usable = (id: string) => this.offer.data.some((data) => data.id === id && !data.missing);
    this.data = [preset.data, preset.wanted, this.data].find(usable) ?? this.offer.data.find((data) => !data.missing)?.id ?? "";
    this.checked = { layers: preset.layers, parameters: preset.parameters, error: null };
  }

  set(values: Settings): boolean {
    const optimizer = values.optimizer;
    // A new optimizer brings its own learning rate.
    const rate = typeof optimizer === "string" && !("learning_rate" in values) ? this.offer.optimizers.find((each) => each.name === optimizer)?.learning_rate : undefined;
    const next: Record<string, SettingValue> = { ...this.changed, ...values, ...(rate === undefined ? {} : { learning_rate: rate }) };
    // What the new optimizer has no use for must not be sent.
    for (const setting of this.offer.settings) {
      if (optimizer && setting.optimizers.length && !setting.optimizers.includes(String(optimizer))) delete next[setting.name];
    }
    this.changed = next;
    return true;
  }

  /** Check the text against the images; call inside an effect. */
  check(): () => void {
    const { text, data } = this;
    const abort = new AbortController();
    this.checking = true;
    const timer = setTimeout(() => {
      this.source.check(text, data, abort.signal).then(
        (checked) => {
          this.checked = checked;
          this.checking = false;
          this.failure = null;
        },
        (error: unknown) => {
          if (isAbort(error)) return;
          this.checking = false;
          this.failure = toFailure(error);
        },
      );
    }, PAUSE);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }
}

/** What stands beside each line of a definition: the layers that it makes. */
export function byLine(checked: CheckedDefinition | null): Map<number, CheckedDefinition["layers"]> {
  const lines = new Map<number, CheckedDefinition["layers"]>();
  for (const layer of checked?.layers ?? []) lines.set(layer.line, [...(lines.get(layer.line) ?? []), layer]);
  return lines;
}
