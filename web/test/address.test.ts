import { readFileSync } from "node:fs";

import { expect, test } from "vitest";

import { formatAddress, parseAddress } from "../src/state/address";

interface Golden {
  valid: { text: string; layer: string; channel: number | null; position: [number, number] | null }[];
  invalid: string[];
}

// The same file that the library's tests read: one grammar.
const golden = JSON.parse(readFileSync(new URL("../../tests/golden/units.json", import.meta.url), "utf8")) as Golden;

test.each(golden.valid)("$text", ({ text, layer, channel, position }) => {
  const address = parseAddress(text);
  expect(address).toEqual({ layer, channel, position: position && { row: position[0], column: position[1] } });
  expect(parseAddress(formatAddress(address!))).toEqual(address);
});

test.each(golden.invalid.filter((text) => text === text.trim()))("%j is refused", (text) => expect(parseAddress(text)).toBeNull());

test("blanks around an address that was typed don't matter", () => expect(parseAddress(" conv1:3 ")?.channel).toBe(3));
