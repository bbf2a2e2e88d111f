// "Did you mean …?": the known name with the fewest edits, if it is near at all.

function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, place) => place);
  for (let down = 1; down <= one.length; down++) {
    const next = [down];
    for (let across = 1; across <= other.length; across++) {
      const change = row[across - 1] + Number(one[down - 1] !== other[across - 1]);
      next.push(Math.min(change, row[across] + 1, next[across - 1] + 1));
    }
    row = next;
  }
  return row[other.length];
}

export function nearest(name: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let least = Math.max(2, Math.floor(name.length / 2)) + 1;
  for (const each of known) {
    if (Math.abs(each.length - name.length) >= least) continue;
    const edits = distance(name.toLowerCase(), each.toLowerCase());
    if (edits < least) [best, least] = [each, edits];
  }
  return best;
}
