import { encoded } from "../../proto/contract/encoded.ts";
import { GodwitError } from "../../proto/contract/error.ts";
import { signalNumber } from "../../proto/contract/signals.ts";
import { isName } from "../../proto/contract/ids.ts";
import {
  ContainerSpec,
  Image,
  type HealthCheck,
  type Resources,
  type RestartBackoff,
} from "../../proto/gen/godwit/v1/spec.ts";
import { isLabelKey } from "./labels.ts";
import { checkPlacementRules } from "./placement-check.ts";
import { formatBytes } from "./quantity.ts";

/** runc refuses less: it could not start its own init in it. */
const MIN_MEMORY_BYTES = 6 * 1024 * 1024;
const MIN_CPU_MILLIS = 10;
/** A spec is a part of a log entry, and an entry must fit a NATS message (1 MiB). */
const MAX_SPEC_BYTES = 256 * 1024;
const MAX_LIST = 4096;
/** Each one stops the container for a moment. */
const MIN_CHECKPOINT_SECONDS = 5;
const MAX_CHECKPOINT_SECONDS = 7 * 86_400;
const MAX_STOP_GRACE_SECONDS = 3600;
const MAX_IMAGE_LAYERS = 256;
const MIN_HEALTH_INTERVAL_MS = 100;
const MAX_HEALTH_MS = 86_400_000;
const MAX_HEALTH_RETRIES = 1_000;

const IMAGE_NAME = /^[a-z0-9]([a-z0-9._/:@-]{0,253}[a-z0-9])?$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

const invalid = (message: string): GodwitError => new GodwitError("invalid", message);
const quoted = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);

const isImageName = (text: string): boolean => IMAGE_NAME.test(text);
const isDigest = (text: string): boolean => DIGEST.test(text);

const noNul = (text: string, what: string): void => {
  if (text.includes("\0")) throw invalid(`${what} holds a NUL character`);
};

const checkStopSignal = (text: string): void => {
  if (text !== "" && signalNumber(text) === undefined)
    throw invalid(`the stop signal ${quoted(text)} is none: give one such as SIGINT, SIGRTMIN+3 or 2`);
};

const checkLimits = (limits: Resources): void => {
  const { memoryBytes, cpuMillis, pids, diskBytes } = limits;
  for (const [name, value] of Object.entries({ memoryBytes, cpuMillis, pids, diskBytes }))
    if (!Number.isSafeInteger(value) || value < 0)
      throw invalid(`the limit ${name} is not a whole number: ${value}`);
  if (memoryBytes !== 0 && memoryBytes < MIN_MEMORY_BYTES)
    throw invalid(
      `a memory limit of ${formatBytes(memoryBytes)} is too small: runc needs at least ${formatBytes(MIN_MEMORY_BYTES)} (0 means no limit)`,
    );
  if (cpuMillis !== 0 && cpuMillis < MIN_CPU_MILLIS)
    throw invalid(
      `a cpu limit of ${cpuMillis / 1000} is too small: at least ${MIN_CPU_MILLIS / 1000} (0 means no limit)`,
    );
};

export const checkLabelKey = (key: string): void => {
  if (!isLabelKey(key))
    throw invalid(`${quoted(key)} is no label name: letters, digits, ".", "_", "/" and "-"`);
};

const checkPort = (port: number): void => {
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw invalid(`${port} is no port for a health check: between 1 and 65535`);
};

const checkHealth = ({ probe, intervalMs, startPeriodMs, timeoutMs, retries }: HealthCheck): void => {
  switch (probe?.$case) {
    case undefined:
      throw invalid("a health check says how: with a command, a TCP port or an HTTP path");
    case "command":
      if (probe.value.arguments.length === 0 || probe.value.arguments[0] === "")
        throw invalid("the health check has no command");
      if (probe.value.arguments.length > MAX_LIST)
        throw invalid(`the command of the health check has more than ${MAX_LIST} arguments`);
      for (const argument of probe.value.arguments) noNul(argument, "an argument of the health check");
      break;
    case "tcpPort":
      checkPort(probe.value);
      break;
    case "http":
      checkPort(probe.value.port);
      if (!/^\/[\x21-\x7e]{0,1023}$/.test(probe.value.path))
        throw invalid(
          `${quoted(probe.value.path)} is no path for a health check: "/" and printable ASCII, at most 1,024 letters`,
        );
      break;
  }
  if (intervalMs !== 0 && intervalMs < MIN_HEALTH_INTERVAL_MS)
    throw invalid(
      `a health check every ${intervalMs} ms is too often: at least ${MIN_HEALTH_INTERVAL_MS} ms apart`,
    );
  for (const [what, ms] of Object.entries({ interval: intervalMs, timeout: timeoutMs, start: startPeriodMs }))
    if (ms > MAX_HEALTH_MS) throw invalid(`the health check's ${what} of ${ms} ms is longer than a day`);
  if (retries > MAX_HEALTH_RETRIES)
    throw invalid(`the health check's ${retries} retries are more than ${MAX_HEALTH_RETRIES}`);
};

const checkBackoff = ({ initialMs, maxMs, resetAfterMs }: RestartBackoff): void => {
  for (const [what, ms] of Object.entries({ initial: initialMs, max: maxMs, reset: resetAfterMs }))
    if (ms > MAX_HEALTH_MS) throw invalid(`the restart back-off's ${what} of ${ms} ms is longer than a day`);
  if (initialMs !== 0 && maxMs !== 0 && initialMs > maxMs)
    throw invalid(
      `the first wait before a restart (${initialMs} ms) is longer than the longest (${maxMs} ms)`,
    );
};

/** Throws `invalid` with what is wrong; checks everything that can be said without the cluster's state. */
export const checkSpec = (spec: ContainerSpec): void => {
  if (!isName(spec.name))
    throw invalid(
      `${quoted(spec.name)} is no container name: use 1 to 63 lower-case letters, digits and dashes, no dash at either end`,
    );
  if (spec.image === "") throw invalid("no image given");
  if (!isImageName(spec.image)) throw invalid(`${quoted(spec.image)} is no image name`);
  if (spec.node !== "" && !isName(spec.node)) throw invalid(`${quoted(spec.node)} is no node name`);
  if (spec.command.length > MAX_LIST) throw invalid(`the command has more than ${MAX_LIST} arguments`);
  for (const argument of spec.command) noNul(argument, "an argument of the command");
  noNul(spec.workingDir, "the working directory");
  if (spec.workingDir !== "" && !spec.workingDir.startsWith("/"))
    throw invalid(`the working directory ${quoted(spec.workingDir)} is not an absolute path`);
  noNul(spec.user, "the user");
  const env = Object.entries(spec.env);
  if (env.length > MAX_LIST) throw invalid(`more than ${MAX_LIST} environment variables`);
  for (const [key, value] of env) {
    if (key === "" || key === "__proto__" || /[=\0]/.test(key))
      throw invalid(`${quoted(key)} is no name of an environment variable`);
    noNul(value, `the environment variable ${key}`);
  }
  const labels = Object.entries(spec.labels);
  if (labels.length > MAX_LIST) throw invalid(`more than ${MAX_LIST} labels`);
  for (const [key] of labels) checkLabelKey(key);
  if (spec.limits !== undefined) checkLimits(spec.limits);
  checkPlacementRules(spec);
  checkStopSignal(spec.stopSignal);
  if (spec.health !== undefined) checkHealth(spec.health);
  if (spec.backoff !== undefined) checkBackoff(spec.backoff);
  const every = spec.checkpointEverySeconds;
  if (every !== 0 && (every < MIN_CHECKPOINT_SECONDS || every > MAX_CHECKPOINT_SECONDS))
    throw invalid(
      `a checkpoint every ${every} s: say from ${MIN_CHECKPOINT_SECONDS} s to a week, or 0 for none`,
    );
  if (spec.stopGraceSeconds > MAX_STOP_GRACE_SECONDS)
    throw invalid(`a stop grace of ${spec.stopGraceSeconds} s is more than ${MAX_STOP_GRACE_SECONDS} s`);
  const size = encoded(ContainerSpec, spec).length;
  if (size >= MAX_SPEC_BYTES)
    throw invalid(
      `the specification takes ${formatBytes(size)}; command, environment and labels may take ${formatBytes(MAX_SPEC_BYTES)} together`,
    );
};

export const checkImage = (image: Image): void => {
  if (!isImageName(image.name)) throw invalid(`${quoted(image.name)} is no image name`);
  if (!isDigest(image.digest)) throw invalid(`${quoted(image.digest)} is no image digest`);
  if (isDigest(image.name)) throw invalid("an image cannot be named like a digest");
  checkStopSignal(image.config?.stopSignal ?? "");
  if (image.layers.length === 0) throw invalid(`the image ${image.name} has no layer`);
  if (image.layers.length > MAX_IMAGE_LAYERS)
    throw invalid(`the image ${image.name} has more than ${MAX_IMAGE_LAYERS} layers`);
  for (const layer of image.layers)
    if (!isDigest(layer.diffId) || layer.object === "")
      throw invalid(`the image ${image.name} has a layer without digest or object`);
  const size = Image.encode(image).finish().length;
  if (size >= MAX_SPEC_BYTES)
    throw invalid(
      `the description of the image ${image.name} takes ${formatBytes(size)}; its configuration and list of layers may take ${formatBytes(MAX_SPEC_BYTES)}`,
    );
};
