/** A rule that the cluster has broken. The simulation ends with the first one. */
export class Violation extends Error {
  override readonly name = "Violation";
}
