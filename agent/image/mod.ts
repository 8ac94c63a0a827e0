export { openImageStore, type ImageRoot, type ImageStore } from "./store.ts";
