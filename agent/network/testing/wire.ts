import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";

import { mustRun, runCommand } from "../../native/command.ts";

export const MAC = "02:57:0a:50:00:09";
export const ADDRESS = "10.80.0.9";

const LISTEN = `
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (message) => console.log(String(message)));
socket.bind(5000, () => console.log("ready"));`;
const SEND = `
const socket = require("node:dgram").createSocket("udp4");
const [to, ...messages] = process.argv.slice(1);
const send = (at) => at === messages.length ? socket.close() : socket.send(messages[at], 5000, to, () => send(at + 1));
send(0);`;

/**
 * A host with a bridge and what stands for its tunnel; another host at the tunnel's far end, which is a bridge too, for
 * bridges learn; and on each a container's namespace, whose link ("inner") is on no bridge yet, with the same address.
 */
export class TestWire implements AsyncDisposable {
  readonly host: string;
  readonly far: string;
  /** The container's namespace on each. */
  readonly inside: string;
  readonly away: string;

  private constructor(id: string) {
    [this.host, this.far, this.inside, this.away] = ["host", "far", "in", "away"].map(
      (name) => `gwt-${id}-${name}`,
    ) as [string, string, string, string];
  }

  static async make(): Promise<TestWire> {
    const wire = new TestWire(randomBytes(3).toString("hex"));
    for (const namespace of wire.#namespaces) await mustRun("ip", ["netns", "add", namespace]);
    // With addresses of their own, as in overlay.ts: one that changes with the ports takes what is known of neighbours along.
    await wire.ip(wire.host, [
      "link add br0 address 02:57:0a:50:00:02 type bridge",
      "link set br0 addrgenmode none up",
      `link add tunnel type veth peer name tunnel netns ${wire.far}`,
      "link set tunnel addrgenmode none master br0 up",
      `link add inner type veth peer name eth0 netns ${wire.inside}`,
      "link set inner addrgenmode none up",
    ]);
    await wire.ip(wire.far, [
      "link add br0 address 02:57:0a:50:00:01 type bridge",
      "link set br0 addrgenmode none up",
      "link set tunnel addrgenmode none master br0 up",
      "addr add 10.80.0.1/24 dev br0",
      `neigh add ${ADDRESS} lladdr ${MAC} dev br0`,
      `link add inner type veth peer name eth0 netns ${wire.away}`,
      "link set inner addrgenmode none up",
    ]);
    for (const namespace of [wire.inside, wire.away])
      await wire.ip(namespace, [
        "link set lo up",
        // Else it speaks of its own accord, and bridges learn from that.
        `link set eth0 address ${MAC} addrgenmode none`,
        `addr add ${ADDRESS}/24 dev eth0`,
        "link set eth0 up",
      ]);
    return wire;
  }

  get #namespaces(): string[] {
    return [this.host, this.far, this.inside, this.away];
  }

  path(namespace: string): string {
    return `/run/netns/${namespace}`;
  }

  async ip(namespace: string, lines: readonly string[]): Promise<void> {
    await mustRun("ip", ["-n", namespace, "-batch", "-"], { input: lines.join("\n") });
  }

  async indexOf(namespace: string, name: string): Promise<number> {
    const { stdout } = await mustRun("ip", ["-n", namespace, "-j", "link", "show", "dev", name]);
    return (JSON.parse(stdout) as [{ ifindex: number }])[0].ifindex;
  }

  /** Datagrams from a host to an address, one after the other. */
  async send(from: string, to: string, ...messages: string[]): Promise<void> {
    await mustRun("ip", ["netns", "exec", from, process.execPath, "-e", SEND, "--", to, ...messages]);
  }

  /** What the container in a namespace hears. */
  async listen(namespace: string): Promise<{ readonly heard: string[] } & AsyncDisposable> {
    const child = spawn("ip", ["netns", "exec", namespace, process.execPath, "-e", LISTEN], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const heard: string[] = [];
    const lines = createInterface(child.stdout);
    await once(lines, "line");
    lines.on("line", (line) => heard.push(line));
    return {
      heard,
      [Symbol.asyncDispose]: async () => {
        const ended = once(child, "exit");
        child.kill();
        await ended;
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const namespace of this.#namespaces) await runCommand("ip", ["netns", "del", namespace]);
  }
}
