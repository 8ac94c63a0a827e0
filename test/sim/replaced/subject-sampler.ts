/** In the place of agent/forecast/subject-sampler.ts: there is nothing to measure. */
export class SubjectSampler implements Disposable {
  [Symbol.dispose](): void {}
}
