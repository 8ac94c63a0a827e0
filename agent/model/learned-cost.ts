/**
 * A cost that is a sum of measures, each times a weight that is learnt: for example so much for every dump, and so
 * much more for each process. A Kalman filter whose weights drift, so that old measurements fade. Pure, and JSON.
 */
export interface LearnedCost {
  readonly weights: readonly number[];
  /** Row by row: how uncertain the weights are, and how they hang together. */
  readonly covariance: readonly (readonly number[])[];
}

/** What is believed before anything is measured: weight, and by how much it may be wrong. */
export type Prior = readonly { readonly weight: number; readonly deviation: number }[];

/** A measurement scatters by this share of what was expected, and by this much anyway. */
const SCATTER = 0.15;
const SCATTER_FLOOR_MS = 3;
/** A host that stood still for a second is no reason to expect that of every move. */
const OUTLIER_DEVIATIONS = 2.5;
/** Of its first uncertainty, what a weight gains between two measurements. */
const DRIFT = 0.05;

export const firstGuess = (prior: Prior): LearnedCost => ({
  weights: prior.map(({ weight }) => weight),
  covariance: prior.map(({ deviation }, row) =>
    prior.map((_, column) => (row === column ? deviation ** 2 : 0)),
  ),
});

/** Never negative, and never falls when a measure rises. */
export const expectedCost = (cost: LearnedCost, measures: readonly number[]): number =>
  cost.weights.reduce((sum, weight, index) => sum + weight * (measures[index] ?? 0), 0);

export function learn(
  cost: LearnedCost,
  measures: readonly number[],
  measured: number,
  prior: Prior,
): LearnedCost {
  if (!Number.isFinite(measured) || measures.some((measure) => !Number.isFinite(measure))) return cost;
  const drifted = cost.covariance.map((line, row) =>
    line.map((value, column) => {
      const limit = (prior[row]?.deviation ?? 0) ** 2;
      return row === column && value < limit ? Math.min(limit, value + DRIFT * limit) : value;
    }),
  );
  const spread = drifted.map((line) =>
    line.reduce((sum, value, column) => sum + value * (measures[column] ?? 0), 0),
  );
  const ofModel = measures.reduce((sum, measure, index) => sum + measure * (spread[index] ?? 0), 0);
  const expected = expectedCost(cost, measures);
  const ofMeasurement = (SCATTER * Math.max(0, expected) + SCATTER_FLOOR_MS) ** 2;
  const total = ofModel + ofMeasurement;
  const most = OUTLIER_DEVIATIONS * Math.sqrt(total);
  const surprise = Math.max(-most, Math.min(most, measured - expected));
  const gain = spread.map((value) => value / total);
  return {
    weights: cost.weights.map((weight, index) => Math.max(0, weight + (gain[index] ?? 0) * surprise)),
    covariance: drifted.map((line, row) =>
      line.map((value, column) => value - (gain[row] ?? 0) * (spread[column] ?? 0)),
    ),
  };
}

/** Whether it can have come from `learn` with this prior: it is read from a file. */
export const isLearnedCost = (value: unknown, prior: Prior): value is LearnedCost => {
  const { weights, covariance } = (value ?? {}) as Partial<Record<string, unknown>>;
  const numbers = (list: unknown): list is number[] =>
    Array.isArray(list) && list.length === prior.length && list.every((one) => Number.isFinite(one));
  return (
    numbers(weights) &&
    weights.every((weight) => weight >= 0) &&
    Array.isArray(covariance) &&
    covariance.length === prior.length &&
    covariance.every(numbers)
  );
};
