/** The `godwit` command. */
import { enableCompileCache } from "node:module";
import { EXIT, ending, ExitWith } from "./failure.ts";

// The generated protobuf code is large: its compiled form is kept between two runs where the system allows it.
enableCompileCache();

// `godwit ps | head -1`: nobody reads on, which is no failure of ours.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? 128 + 13 : EXIT.failed);
  });
}

async function main(argv: readonly string[]): Promise<void> {
  if (argv[0] === "dev") {
    const { dev } = await import("./verb/dev.ts");
    await dev(argv.slice(1));
  } else {
    const { runProgram } = await import("./program.ts");
    await runProgram(argv);
  }
}

let exitCode: number = EXIT.done;
try {
  await main(process.argv.slice(2));
} catch (error) {
  const { lastAddress } = await import("./session.ts");
  const end = ending(error, lastAddress.value);
  exitCode = end.exitCode;
  const line = end.line.replace(/\s*[\r\n]+\s*/g, " ").trim();
  if (line !== "") process.stderr.write(`godwit: ${line}\n`);
  if (!(error instanceof ExitWith) && process.env["GODWIT_DEBUG"] !== undefined) console.error(error);
}
// An open standard input or a closing channel must not keep the command; what was written must still get out.
process.stdout.write("", () => process.stderr.write("", () => process.exit(exitCode)));
