// Ways through the layer table.

import type { Layer } from "../api/schema";

/** The nearest layer before this one that has a kernel, breadth first along the inputs; a block's own is its last inside. */
export function nearestKernel(layer: Layer, byAddress: ReadonlyMap<string, Layer>): Layer | null {
  const seen = new Set<string>([layer.address]);
  for (let front = [layer]; front.length > 0; ) {
    const next: Layer[] = [];
    for (const each of front) {
      for (const before of [insideLast(each, byAddress), ...each.inputs.map((input) => byAddress.get(input) ?? null)]) {
        if (!before || seen.has(before.address)) continue;
        if (before.has_kernel && !before.opaque) return before;
        seen.add(before.address);
        next.push(before);
      }
    }
    front = next;
  }
  return null;
}

function insideLast(block: Layer, byAddress: ReadonlyMap<string, Layer>): Layer | null {
  if (block.operation !== "block") return null;
  let last: Layer | null = null;
  for (const layer of byAddress.values()) {
    if (layer.has_kernel && !layer.opaque && layer.address.startsWith(`${block.path}.`)) last = layer;
  }
  return last;
}
