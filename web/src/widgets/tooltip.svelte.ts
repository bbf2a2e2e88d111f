// One tooltip for the whole page; whoever has the pointer writes into it.

export interface Tip {
  readonly left: number;
  readonly top: number;
  readonly lines: readonly string[];
}

export const tooltip = $state<{ tip: Tip | null }>({ tip: null });
