/** Flags that many verbs take. */
import { Option } from "commander";
import { FORMATS, parseFormat } from "./output.ts";

export const apiOption = (): Option =>
  new Option(
    "--api <address>",
    "unix:/PATH or HOST:PORT of the API, with commas between several (else $GODWIT_API, else the cluster of 'dev up')",
  );
export const outputOption = (): Option =>
  new Option("-o, --output <format>", FORMATS.join(", ")).default("table" as const).argParser(parseFormat);
export const detachOption = (): Option =>
  new Option("--detach", "return when it is recorded, without waiting for it").default(false);
