/** Commands of the balancer at random. */
import * as fc from "fast-check";
import type { Command } from "../../proto/gen/godwit/v1/log.ts";
import { BalanceForecast, BalancePolicy } from "../../proto/gen/godwit/v1/spec.ts";
import { DEFAULT_BALANCE } from "../model/balance-settings.ts";
import { command } from "../plan/command.ts";

export const balanceCommands = (migration: fc.Arbitrary<string>): fc.Arbitrary<Command>[] => [
  fc
    .record({
      policy: fc.constantFrom(BalancePolicy.OFF, BalancePolicy.AUTO),
      threshold: fc.constantFrom(0.1, 0.2, -1),
      windows: fc.constantFrom<string[]>([], ["Mon-Fri 22:00-06:00"], ["never"]),
    })
    .map((some) => command("balanceSet", { settings: { ...DEFAULT_BALANCE, ...some } })),
  fc.constantFrom("", "three misses").map((reason) => command("balancePaused", { reason })),
  fc
    .record({ migrationId: migration, actualGain: fc.constantFrom(0.1, Number.NaN), missed: fc.boolean() })
    .map(({ actualGain, migrationId, missed }) =>
      command("balanceMeasured", {
        migrationId,
        outcome: { actualGain, missed, measuredAtMs: 1, remark: "" },
      }),
    ),
  fc
    .array(
      fc.record({
        containerId: fc.constant("c"),
        container: fc.constantFrom("a", "b"),
        from: fc.constant("n1"),
        to: fc.constant("n2"),
        forecast: fc.constant(BalanceForecast.fromPartial({ predictedGain: 0.2 })),
      }),
      { maxLength: 2 },
    )
    .map((moves) => command("balanceAdvised", { moves })),
];
