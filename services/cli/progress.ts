/** A progress bar on a terminal's standard error; nothing at all elsewhere. */
import { formatBytes } from "./quantity.ts";
import { isWatched } from "./session.ts";

export interface Progress extends Disposable {
  /** `totalBytes` of 0: not known. */
  update(doneBytes: number, totalBytes: number, label: string): void;
}

const NONE: Progress = { update: () => undefined, [Symbol.dispose]: () => undefined };

export async function startProgress(): Promise<Progress> {
  if (!isWatched()) return NONE;
  const { default: progress } = await import("cli-progress");
  const bar = new progress.SingleBar(
    {
      stream: process.stderr,
      format: "{bar} {percentage}% {amount} {label}",
      barsize: 16,
      hideCursor: true,
      clearOnComplete: true,
      fps: 8,
    },
    progress.Presets.shades_classic,
  );
  let started = false;
  return {
    update(doneBytes, totalBytes, label) {
      const amount =
        totalBytes === 0 ? formatBytes(doneBytes) : `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
      const total = Math.max(totalBytes, doneBytes, 1);
      if (!started) {
        bar.start(total, doneBytes, { amount, label });
        started = true;
      }
      bar.setTotal(total);
      bar.update(doneBytes, { amount, label });
    },
    [Symbol.dispose]() {
      if (started) bar.stop();
    },
  };
}
