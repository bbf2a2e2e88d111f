// The catalogue in use. A language is one file with the same keys as en.ts.

import { en } from "./en";

export type Key = keyof typeof en;
type Values = Readonly<Record<string, string | number>>;

const catalogue: Readonly<Record<Key, string>> = en;

/** The text of a key, its {names} filled in. */
export function t(key: Key, values: Values = {}): string {
  return catalogue[key].replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole));
}

/** A text whose key is made of parts; the last part itself where there is no such key (a third party's statistic). */
export function tOr(key: string, otherwise: string): string {
  return key in catalogue ? catalogue[key as Key] : otherwise;
}
