// Which units a sheet shows: "0-31, 40", "norm > 0.5 and ratio < 1e-3", "features.0:7", "not zero_fraction = 1".

import type { Statistics } from "./statistics";
import { parseAddress } from "./address";

export type Keep = (channel: number, index: number) => boolean;

/** What is wrong with a filter, and where; the words are in the catalogue. */
export interface FilterProblem {
  readonly problem: "term" | "statistic";
  readonly text: string;
  readonly known?: string[];
}

const COMPARISON = /^(\w+)\s*(<=|>=|!=|==?|<|>|≤|≥)\s*([+\-−]?(?:\d+\.?\d*|\.\d+)(?:e[+\-−]?\d+)?)$/i;
const SPAN = /^(\d+)(?:\s*(?:-|–|\.\.|…)\s*(\d+))?$/;

const COMPARE: Readonly<Record<string, (one: number, other: number) => boolean>> = {
  "<": (one, other) => one < other,
  ">": (one, other) => one > other,
  "<=": (one, other) => one <= other,
  "≤": (one, other) => one <= other,
  ">=": (one, other) => one >= other,
  "≥": (one, other) => one >= other,
  "=": (one, other) => one === other,
  "==": (one, other) => one === other,
  "!=": (one, other) => one !== other,
};

/** Commas and "or" join alternatives, "and" joins conditions, "not" turns one around. Empty keeps everything. */
export function parseFilter(text: string, statistics: Statistics): Keep | FilterProblem {
  if (text.trim() === "") return () => true;
  const alternatives: Keep[] = [];
  for (const alternative of text.split(/,|\bor\b|\|\|/i)) {
    const conditions: Keep[] = [];
    for (const condition of alternative.split(/\band\b|&&/i)) {
      const term = parseTerm(condition.trim(), statistics);
      if (typeof term !== "function") return term;
      conditions.push(term);
    }
    alternatives.push((channel, index) => conditions.every((keep) => keep(channel, index)));
  }
  return (channel, index) => alternatives.some((keep) => keep(channel, index));
}

function parseTerm(text: string, statistics: Statistics): Keep | FilterProblem {
  const negated = /^(?:not\b|!)\s*(.*)$/i.exec(text);
  if (negated) {
    const inner = parseTerm(negated[1], statistics);
    return typeof inner === "function" ? (channel, index) => !inner(channel, index) : inner;
  }
  const span = SPAN.exec(text);
  if (span) {
    const first = Number(span[1]);
    const last = Number(span[2] ?? span[1]);
    return (channel) => channel >= first && channel <= last;
  }
  const comparison = COMPARISON.exec(text);
  if (comparison) {
    const [, name, sign, number] = comparison;
    const value = Number(number.replace("−", "-"));
    const compare = COMPARE[sign];
    if (/^(index|unit|channel)$/i.test(name)) return (channel) => compare(channel, value);
    const key = [...statistics.keys()].find((each) => each.toLowerCase() === name.toLowerCase());
    if (!key) return { problem: "statistic", text: name, known: [...statistics.keys()] };
    const values = statistics.get(key) as ArrayLike<number>;
    return (_, index) => compare(values[index], value);
  }
  const address = parseAddress(text);
  if (address && address.channel !== null) return (channel) => channel === address.channel;
  return { problem: "term", text };
}
