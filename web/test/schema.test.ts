import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

const web = fileURLToPath(new URL("..", import.meta.url));

test("the committed types are those of the committed interface", () => {
  const folder = mkdtempSync(join(tmpdir(), "convscope-types-"));
  try {
    const made = join(folder, "schema.gen.ts");
    execFileSync(process.execPath, [join(web, "node_modules/openapi-typescript/bin/cli.js"), join(web, "openapi.json"), "--output", made], { stdio: "pipe" });
    const stale = readFileSync(made, "utf8") !== readFileSync(join(web, "src/api/schema.gen.ts"), "utf8");
    expect(stale, "web/src/api/schema.gen.ts is stale. Run: make types").toBe(false);
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 30_000);
