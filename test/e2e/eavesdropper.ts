/**
 * Records what goes over NATS and, as a third node with rights to the migrations' subjects could, repeats and forges
 * what it hears of them. Arguments: URL, password file of the scheduler, then needles in hexadecimal. When its standard
 * input ends it prints what it heard as one JSON document.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";

import { connect } from "@nats-io/transport-node";

export interface Heard {
  readonly messages: number;
  readonly migrationBytes: number;
  readonly migrationChunks: number;
  /** Needles that were seen, in hexadecimal. */
  readonly found: string[];
  readonly forged: number;
}

if (process.argv[1] === import.meta.filename) {
  const [url = "", passwordFile = "", ...hex] = process.argv.slice(2);
  const needles = hex.map((text) => Buffer.from(text, "hex"));
  const connection = await connect({
    servers: url,
    user: "scheduler",
    pass: readFileSync(passwordFile, "utf8").trim(),
  });
  const found = new Set<string>();
  let [messages, migrationBytes, migrationChunks, forged] = [0, 0, 0, 0];
  const ownForgeries = new Set<string>();
  const forge = (subject: string, heard: Uint8Array): void => {
    // A damaged copy, noise of the same kind, and a repetition.
    const damaged = Buffer.from(heard);
    damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] ?? 0) ^ 1;
    const noise = Buffer.concat([heard.subarray(0, 9), randomBytes(60)]);
    for (const bytes of [damaged, noise, Buffer.from(heard)]) {
      ownForgeries.add(bytes.toString("latin1"));
      connection.publish(subject, bytes);
      forged += 1;
    }
  };
  const hear = (subject: string, data: Uint8Array): void => {
    messages += 1;
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    for (const needle of needles) if (bytes.includes(needle)) found.add(needle.toString("hex"));
    if (!subject.startsWith("godwit.migration.")) return;
    const small = bytes.byteLength < 1_000;
    if (small && ownForgeries.delete(bytes.toString("latin1"))) return;
    migrationBytes += bytes.byteLength;
    if (subject.endsWith(".data") && !small) migrationChunks += 1;
    if (small) forge(subject, bytes);
  };
  for (const subject of ["godwit.>", "_INBOX.>"]) {
    connection.subscribe(subject, {
      callback: (error, message) => {
        if (error === null) hear(message.subject, message.data);
      },
    });
  }
  await connection.flush();
  process.stdout.write("ready\n");
  process.stdin.resume();
  process.stdin.once("end", () => {
    void connection.drain().then(() => {
      const heard: Heard = { messages, migrationBytes, migrationChunks, found: [...found], forged };
      process.stdout.write(`${JSON.stringify(heard)}\n`);
      process.exit(0);
    });
  });
}
