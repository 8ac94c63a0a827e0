import { closeSync, openSync } from "node:fs";

import { enterNamespace, Namespace } from "./process.ts";

/** What `open` answers when it is called in another network namespace. @param path such as /run/netns/NAME */
export function withinNetwork<T>(path: string, open: () => T): T {
  const own = openSync("/proc/thread-self/ns/net", "r");
  const other = openSync(path, "r");
  try {
    // Only this thread changes places, and it does nothing else until it is back.
    enterNamespace(other, Namespace.network);
    try {
      return open();
    } finally {
      enterNamespace(own, Namespace.network);
    }
  } finally {
    closeSync(other);
    closeSync(own);
  }
}
