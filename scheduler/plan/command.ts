import type { Command } from "../../proto/gen/godwit/v1/log.ts";

type Variant = NonNullable<Command["command"]>;
type ValueOf<C extends Variant["$case"]> = Extract<Variant, { $case: C }>["value"];

/** `command("migrationSwitched", { id })` */
export const command = <C extends Variant["$case"]>($case: C, value: ValueOf<C>): Command => ({
  command: { $case, value } as Variant,
});
