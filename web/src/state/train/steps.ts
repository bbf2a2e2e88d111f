// Recorded steps: which are shown where on the time slider, and which tell how something grew.

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
 * At most `count` steps that tell how something grew: the first and the last, and between them as evenly spread as can
 * be on a logarithmic scale, since most happens early.
 */
export function growthSteps(steps: readonly number[], count: number): number[] {
  if (steps.length <= count) return [...steps];
  if (count < 2) return steps.slice(-1);
  const origin = steps[0] - 1;
  const last = Math.log(steps[steps.length - 1] - origin);
  const chosen = new Set<number>();
  let at = 0;
  for (let place = 0; place < count; place++) {
    const wanted = Math.exp((last * place) / (count - 1)) + origin;
    // Each is a later one than that before, and leaves enough for those to come.
    const most = steps.length - (count - place);
    while (at < most && Math.abs(steps[at + 1] - wanted) <= Math.abs(steps[at] - wanted)) at++;
    chosen.add(steps[Math.min(at, most)]);
    at = Math.min(at, most) + 1;
  }
  return [...chosen];
}

/** Where a step lies among recorded ones, 0 … 1: they stand evenly on the slider, others between them. */
export function sliderPart(steps: readonly number[], step: number): number {
  const last = steps.length - 1;
  if (last < 1 || step <= steps[0]) return 0;
  if (step >= steps[last]) return 1;
  let [low, high] = [0, last];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  return (low + (step - steps[low]) / (steps[high] - steps[low])) / last;
}

/** Sorted, each once. */
export function union(lists: Iterable<readonly number[]>): number[] {
  const all = new Set<number>();
  for (const list of lists) for (const step of list) all.add(step);
  return [...all].sort((one, other) => one - other);
}
