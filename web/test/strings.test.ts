import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

import { t } from "../src/strings";
import { en } from "../src/strings/en";

const source = fileURLToPath(new URL("../src", import.meta.url));
const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) => /\.(svelte|ts)$/.test(name) && !name.startsWith("strings"));
const text = files.map((name) => readFileSync(`${source}/${name}`, "utf8"));

test("names are filled in, and nothing else", () => {
  expect(t("busy.progress", { done: 3, total: 4 })).toBe("3 of 4");
  expect(t("busy.progress", { done: "$&" })).toBe("$& of {total}");
});

test("every text is used", () => {
  const whole = text.join("\n");
  const made = [...whole.matchAll(/[`"]([\w.]+)\.\$\{/g)].map((match) => `${match[1]}.`);
  const unused = Object.keys(en).filter((key) => !whole.includes(`"${key}"`) && !whole.includes(`'${key}'`) && !made.some((start) => key.startsWith(start)));
  expect(unused).toEqual([]);
});

test("components hold no words of their own, and no markup from data", () => {
  for (const [index, name] of files.entries()) {
    if (!name.endsWith(".svelte")) continue;
    const markup = text[index].replace(/<script[\s\S]*?<\/script>|<style[\s\S]*?<\/style>|<!--[\s\S]*?-->/g, "");
    expect(markup, name).not.toContain("{@html");
    const words = markup.replace(/\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*\}/g, "").match(/>[^<>{}]*[A-Za-z]{3,}[^<>{}]*</g) ?? [];
    expect(words.filter((word) => !word.includes("&nbsp;")), name).toEqual([]);
  }
});
