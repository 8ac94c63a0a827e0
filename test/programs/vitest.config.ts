import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    name: "programs",
    dir: "test/programs",
    testTimeout: 400_000,
    hookTimeout: 240_000,
    fileParallelism: false,
    maxWorkers: 1,
  },
});
