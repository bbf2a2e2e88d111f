// What can be asked of which target, known before anything is computed: refusals are shown instead of tried.

import { SvelteMap } from "svelte/reactivity";

import type { ErrorDescription, MethodHere } from "../api/schema";
import type { Source } from "../sources/source";

type Here = ReadonlyMap<string, MethodHere>;

/** A refusal in one sentence, with what to do about it. */
export const reasonText = ({ what, next_step: next }: Pick<ErrorDescription, "what" | "next_step">): string =>
  [what, next].filter(Boolean).join(what.endsWith(".") ? " " : ". ");

export class Offers {
  private readonly known = new SvelteMap<string, Here>();
  private readonly asked = new Set<string>();

  constructor(private readonly source: Pick<Source, "methods">) {}

  /** Ask about a target, once; call inside an effect or an event. */
  ask(target: string): void {
    if (this.asked.has(target)) return;
    this.asked.add(target);
    this.source.methods(target).then(
      (methods) => this.known.set(target, new Map(methods.map((each) => [each.name, each]))),
      () => this.known.set(target, new Map()), // The methods themselves will say what is wrong.
    );
  }

  /** Whether the answer is here. */
  has(target: string): boolean {
    return this.known.has(target);
  }

  /** Why a method can't be asked of a target; "" where it can, or isn't known to be refused. */
  refusal(method: string, target: string): string {
    const refused = this.known.get(target)?.get(method)?.refused;
    return refused ? reasonText(refused) : "";
  }

  /** Seconds that one took here last; null where none was computed yet. */
  seconds(method: string, target: string): number | null {
    return this.known.get(target)?.get(method)?.seconds ?? null;
  }

  /** Something changed: mined, or another layer's. */
  forget(): void {
    this.known.clear();
    this.asked.clear();
  }
}
