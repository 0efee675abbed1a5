import { defineConfig } from "vite";

// Names without hashes: what is committed changes in place, the server answers with ETags, and a page that was open
// during an upgrade never asks for a file that is gone. `base` is relative, so that a path before it does no harm.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../deployments/ui",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    rollupOptions: {
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]", codeSplitting: false },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:9997" } },
});
