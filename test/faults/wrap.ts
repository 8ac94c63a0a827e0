/** Puts another method in the place of a class's own, which it is given to call. */
export function wrap<T extends object, K extends keyof T>(
  prototype: T,
  name: K,
  make: (original: T[K]) => T[K],
): void {
  prototype[name] = make(prototype[name]);
}
