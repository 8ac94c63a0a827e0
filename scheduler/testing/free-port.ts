import { randomInt } from "node:crypto";
import { createServer } from "node:net";

/**
 * Below those that the kernel takes for the near ends of connections, as it does with any port that nobody listens on
 * for a moment: between finding it free and listening on it, or while a server is killed and started again.
 */
const FROM = 10_000;
const TO = 30_000;
const ATTEMPTS = 100;

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer()
      .once("error", () => resolve(false))
      .listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });

/** A port of 127.0.0.1 that nobody listens on right now. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const port = randomInt(FROM, TO);
    if (await isFree(port)) return port;
  }
  throw new Error(`none of ${ATTEMPTS} ports from ${FROM} to ${TO} is free`);
}
