import { mustRun, runCommand } from "../native/command.ts";
import type { Attachment } from "./attachment.ts";

const TABLE = "godwit-arrival";
/** What CRIU puts on the packets with which it brings a half-closed connection into its state (SOCCR_MARK). */
const CRIU_MARK = "0xc114";

/**
 * Until a container that is being restored runs, nothing leaves its namespace that ends a connection. The address is
 * announced a moment before: were the restore to fail then, the kernel would answer the peers of the container's
 * connections that it knows of none, and they would be lost although the container can still be restored, or goes on
 * at its source. What is held back is sent again by TCP.
 */
export async function holdClosings(attachment: Attachment): Promise<void> {
  await mustRun("ip", ["netns", "exec", attachment.namespace, "nft", "-f", "-"], {
    input: [
      `table inet ${TABLE} {`,
      "  chain out {",
      "    type filter hook output priority 0;",
      `    meta mark ${CRIU_MARK} accept`,
      "    tcp flags & (fin | rst) != 0 drop",
      "    icmp type destination-unreachable drop",
      "  }",
      "}\n",
    ].join("\n"),
  });
}

/** Idempotent: where nothing is held back, nothing happens. */
export async function releaseClosings(attachment: Attachment): Promise<void> {
  await runCommand("ip", ["netns", "exec", attachment.namespace, "nft", "delete", "table", "inet", TABLE]);
}
