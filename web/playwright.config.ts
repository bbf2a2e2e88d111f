import { defineConfig } from "@playwright/test";

// Debian's Chromium; no browser is downloaded. CONVSCOPE_CHROMIUM names another one.
const executablePath = process.env.CONVSCOPE_CHROMIUM ?? "/usr/bin/chromium";

export default defineConfig({
  testDir: "e2e",
  outputDir: "test-results",
  // For a machine that has much else to do. Whoever waits goes on as soon as it is there, so this costs nothing elsewhere.
  timeout: 300_000,
  expect: { timeout: 60_000, toPass: { timeout: 120_000 } },
  fullyParallel: false,
  workers: 1,
  forbidOnly: Boolean(process.env.CI),
  reporter: [["list"]],
  use: {
    viewport: { width: 1440, height: 900 },
    launchOptions: {
      executablePath,
      args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    },
    trace: "retain-on-failure",
  },
});
