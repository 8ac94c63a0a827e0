import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    reporters: ["default"],
    projects: [
      {
        test: {
          name: "unit",
          include: [
            "{agent,scheduler,services,proto,deploy}/**/*.test.ts",
            "test/faults/states.test.ts",
            "test/sim/*.test.ts",
          ],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 0 },
          maxWorkers: 2,
        },
      },
      {
        // Whole clusters on the real kernel: one file after the other, for they measure nothing but wait a lot.
        test: {
          name: "cluster",
          include: ["test/{e2e,faults}/**/*.test.ts"],
          exclude: ["test/faults/states.test.ts", "test/sim/*.test.ts"],
          testTimeout: 240_000,
          hookTimeout: 240_000,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
