// Which units a sheet shows: "0-31, 40", "norm > 0.5 and ratio < 1e-3", "features.0:7", "not zero_fraction = 1",
// "class contains dog", "dead".

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
const CLASS = /^class\s*(contains|has|~|=|is)\s*(?:"([^"]*)"|'([^']*)'|“([^”]*)”|(.+))$/i;
// A quoted name may hold what joins conditions elsewhere.
const QUOTED = /"[^"]*"|“[^”]*”/g;
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

/**
 * Commas and "or" join alternatives, "and" joins conditions, "not" turns one around. Empty keeps everything.
 *
 * @param classes of each unit, what the most frequent class of its top images is called, and those that are as frequent;
 *   empty when nothing was mined
 */
export function parseFilter(text: string, statistics: Statistics, classes: readonly (readonly string[])[] = []): Keep | FilterProblem {
  if (text.trim() === "") return () => true;
  const quoted: string[] = [];
  const bare = text.replace(QUOTED, (name) => `"${quoted.push(name.slice(1, -1)) - 1}"`);
  const whole = (term: string) => term.replace(/"(\d+)"/g, (_, index: string) => `"${quoted[Number(index)]}"`);
  const alternatives: Keep[] = [];
  for (const alternative of bare.split(/,|\bor\b|\|\|/i)) {
    const conditions: Keep[] = [];
    for (const condition of alternative.split(/\band\b|&&/i)) {
      const term = parseTerm(whole(condition.trim()), statistics, classes);
      if (typeof term !== "function") return term;
      conditions.push(term);
    }
    alternatives.push((channel, index) => conditions.every((keep) => keep(channel, index)));
  }
  return (channel, index) => alternatives.some((keep) => keep(channel, index));
}

function parseTerm(text: string, statistics: Statistics, classes: readonly (readonly string[])[]): Keep | FilterProblem {
  const negated = /^(?:not\b|!)\s*(.*)$/i.exec(text);
  if (negated) {
    const inner = parseTerm(negated[1], statistics, classes);
    return typeof inner === "function" ? (channel, index) => !inner(channel, index) : inner;
  }
  const span = SPAN.exec(text);
  if (span) {
    const first = Number(span[1]);
    const last = Number(span[2] ?? span[1]);
    return (channel) => channel >= first && channel <= last;
  }
  const named = CLASS.exec(text);
  if (named) {
    if (!classes.length) return { problem: "statistic", text: "class", known: [...statistics.keys()] };
    const sought = (named[2] ?? named[3] ?? named[4] ?? named[5]).trim().toLowerCase();
    const exact = /^(=|is)$/i.test(named[1]);
    return (channel) =>
      (classes[channel] ?? []).some((each) => (exact ? each.toLowerCase() === sought : each.toLowerCase().includes(sought)));
  }
  if (/^dead$/i.test(text) && statistics.has("positive_fraction")) {
    const excited = statistics.get("positive_fraction") as ArrayLike<number>;
    return (_, index) => excited[index] === 0;
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
