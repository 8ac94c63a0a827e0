import { fileURLToPath } from "node:url";

import { defineConfig } from "vitest/config";

/** Apart from the other tests: emulated machines are some thirty times slower than the one that they run on. */
export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["test/vm/**/*.test.ts"],
    testTimeout: 3_600_000,
    hookTimeout: 3_600_000,
    fileParallelism: false,
    maxWorkers: 1,
  },
});
