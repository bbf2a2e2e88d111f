import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// CONVSCOPE_URL is the address of a running `convscope … --no-browser` for `npm run dev` (with its token's cookie set by
// opening the printed link once through the development server).
const server = process.env.CONVSCOPE_URL ?? "http://127.0.0.1:8321";

export default defineConfig({
  base: "",
  plugins: [svelte()],
  build: {
    outDir: "../src/convscope/server/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the server's content security policy has no data: scripts or fonts
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/api": { target: server, changeOrigin: true } } },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
