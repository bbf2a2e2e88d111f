// Recorded steps: which are shown where on the time slider, and which tell how something grew.

import { nearestIndex } from "./series";

/** The recorded step at or before `step`; the first one where none is. */
export function stepBefore(steps: readonly number[], step: number): number | null {
  if (!steps.length) return null;
  let found = steps[0];
  for (const each of steps) {
    if (each > step) break;
    found = each;
  }
  return found;
}

/**
 * At most `count` steps that tell how something grew: the first, the last, and those nearest to where time is cut into
 * parts that grow evenly, since most happens early but nothing within the first few steps.
 */
export function growthSteps(steps: readonly number[], count: number): number[] {
  if (!steps.length || count < 2) return steps.slice(-1);
  const [first, last] = [steps[0], steps[steps.length - 1]];
  const chosen = new Set<number>();
  for (let place = 0; place < count; place++) {
    const wanted = first + (last - first) * (place / (count - 1)) ** 2;
    chosen.add(steps[nearestIndex(steps, wanted)]);
  }
  return [...chosen];
}

/**
 * Where a step lies on the time slider, 0 … 1: its square root, so that the many early steps have room and the late ones
 * don't vanish; and the step that lies there.
 */
export const sliderPart = (steps: readonly number[], step: number): number => {
  const [first, last] = [steps[0] ?? 0, steps[steps.length - 1] ?? 0];
  return last > first ? Math.sqrt(Math.min(1, Math.max(0, (step - first) / (last - first)))) : 0;
};

export function stepAtPart(steps: readonly number[], part: number): number {
  const [first, last] = [steps[0] ?? 0, steps[steps.length - 1] ?? 0];
  return steps[nearestIndex(steps, first + (last - first) * part ** 2)] ?? 0;
}

/** Sorted, each once. */
export function union(lists: Iterable<readonly number[]>): number[] {
  const all = new Set<number>();
  for (const list of lists) for (const step of list) all.add(step);
  return [...all].sort((one, other) => one - other);
}
