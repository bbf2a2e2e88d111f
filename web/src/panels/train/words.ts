// Words about training that are made of data.

import { t } from "../../strings";
import { formatNumber } from "../../paint/number";

/** convolution, fully connected, … */
export const kindText = (kind: string): string => kind.replaceAll("_", " ");

/** 0.9312 -> 93.1 % */
export function percent(part: number | null | undefined): string {
  if (part === null || part === undefined || !Number.isFinite(part)) return "–";
  const value = 100 * part;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

/** What a setting's value looks like in a sentence. */
export function settingText(value: unknown): string {
  if (typeof value === "number") return formatNumber(value);
  if (value === null || value === undefined) return t("settings.asDefined");
  return String(value);
}
