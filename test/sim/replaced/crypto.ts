/** In the place of `node:crypto`: what is random comes from the seed. */
import { world } from "../world.ts";

export { createHash, createHmac, hash, timingSafeEqual } from "node:crypto";

export const randomBytes = (length: number): Buffer => {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) bytes[at] = Math.floor(Math.random() * 256);
  return bytes;
};
export const randomInt = (limit: number): number => Math.floor(Math.random() * limit);
export const randomUUID = (): string => `${world().seed}-${randomBytes(16).toString("hex")}`;
