import { readFileSync } from "node:fs";

import { expect, test } from "vitest";

test("the page has no inline script or style, which the server's content security policy would refuse", () => {
  const page = readFileSync(new URL("../index.html", import.meta.url), "utf8");
  expect(page).not.toMatch(/<script(?![^>]*\bsrc=)[^>]*>/);
  expect(page).not.toMatch(/<style|\sstyle=|\son\w+=/);
});
