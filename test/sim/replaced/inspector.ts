/** In the place of agent/obstacles/inspector.ts: no container has anything that keeps it from being moved. */
export class Inspector implements AsyncDisposable {
  start(): void {}
  findings(): undefined {
    return undefined;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve();
  }
}
