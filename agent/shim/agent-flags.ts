/**
 * How Node runs an agent (`deploy/setup.sh` compiles it with these, for what is compiled with others counts for nothing).
 *
 * V8 lets its young generation grow to some 100 MB under a stream of small buffers, which gains nothing here. The old one
 * is small, and without room the buffers of each move would have it collected several times in that, often while the
 * container stands still; nor is what only runs then to be compiled anew for each move.
 */
export const AGENT_FLAGS: readonly string[] = [
  "--max-semi-space-size=4",
  "--initial-old-space-size=64",
  "--no-flush-bytecode",
];
