// Which key does what; the list that "?" shows is made of this.

import type { Key } from "../strings";

export interface Binding {
  readonly keys: readonly string[];
  readonly shown: string;
  readonly words: Key;
  readonly group: Key;
}

export const BINDINGS: readonly Binding[] = [
  { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "h", "j", "k", "l"], shown: "← ↑ → ↓ · h j k l", words: "keys.arrows", group: "keys.group.move" },
  { keys: ["[", "]"], shown: "[ ]", words: "keys.layers", group: "keys.group.move" },
  { keys: [",", "."], shown: ", .", words: "keys.images", group: "keys.group.move" },
  { keys: ["/"], shown: "/", words: "keys.search", group: "keys.group.move" },
  { keys: ["g"], shown: "g", words: "keys.goto", group: "keys.group.move" },
  { keys: ["Escape"], shown: "Esc", words: "keys.back", group: "keys.group.move" },
  { keys: ["1", "2", "3", "4", "5", "6", "7", "8"], shown: "1 … 8", words: "keys.sheets", group: "keys.group.show" },
  { keys: ["z"], shown: "z", words: "keys.zoom", group: "keys.group.show" },
  { keys: ["t"], shown: "t", words: "keys.table", group: "keys.group.show" },
  { keys: ["p"], shown: "p", words: "keys.gallery", group: "keys.group.show" },
  { keys: ["i"], shown: "i", words: "keys.image", group: "keys.group.show" },
  { keys: ["o"], shown: "o", words: "keys.patch", group: "keys.group.show" },
  { keys: ["?"], shown: "?", words: "keys.help", group: "keys.group.show" },
  { keys: ["b"], shown: "b", words: "keys.pin", group: "keys.group.keep" },
  { keys: ["s"], shown: "s", words: "keys.save", group: "keys.group.keep" },
  { keys: ["c"], shown: "c", words: "keys.copy", group: "keys.group.keep" },
  { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], shown: "← ↑ → ↓", words: "keys.image.arrows", group: "keys.group.image" },
  { keys: ["z"], shown: "z, Enter", words: "keys.image.large", group: "keys.group.image" },
  { keys: ["x"], shown: "x", words: "keys.image.check", group: "keys.group.image" },
  { keys: ["v"], shown: "v", words: "keys.image.overlay", group: "keys.group.image" },
  { keys: ["1", "2", "3", "4"], shown: "1 … 4", words: "keys.image.looks", group: "keys.group.image" },
  { keys: [" "], shown: "space", words: "keys.train.run", group: "keys.group.train" },
  { keys: ["n"], shown: "n", words: "keys.train.step", group: "keys.group.train" },
  { keys: [",", "."], shown: ", .", words: "keys.train.time", group: "keys.group.train" },
  { keys: ["0"], shown: "0", words: "keys.train.live", group: "keys.group.train" },
  { keys: ["y"], shown: "y", words: "keys.train.play", group: "keys.group.train" },
  { keys: ["b"], shown: "b", words: "keys.train.beside", group: "keys.group.train" },
  { keys: ["1", "2", "3", "4", "5", "6"], shown: "1 … 6", words: "keys.train.quantities", group: "keys.group.train" },
  { keys: ["e"], shown: "e", words: "keys.train.settings", group: "keys.group.train" },
  { keys: ["i", "I"], shown: "i, shift i", words: "keys.train.image", group: "keys.group.train" },
  { keys: ["ArrowLeft", "ArrowRight"], shown: "← →", words: "keys.train.lesson", group: "keys.group.train" },
];

/** True while someone types, or a control of its own uses the key. */
export function takesKeys(target: EventTarget | null, key: string): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.closest("dialog, [popover]")) return true;
  if (target.isContentEditable || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement) return true;
  if (target instanceof HTMLInputElement) return target.type !== "range" || key.startsWith("Arrow");
  return false;
}

/** Esc closes what has opened over the page; the browser does so by itself, unless the key is taken from it. */
export function isLeftToBrowser(key: string): boolean {
  return key === "Escape" && document.querySelector(":popover-open") !== null;
}
