import { MigrationForecast } from "../../proto/gen/godwit/v1/spec.ts";

const MAX_REFUSAL = 1_024;

/** An agent's forecast, without what is no measurement and bounded: it goes into the log and from there into JSON. */
export function checkedForecast(given: MigrationForecast): MigrationForecast {
  const forecast = MigrationForecast.fromPartial(given);
  for (const key of Object.keys(forecast) as (keyof MigrationForecast)[]) {
    if (key === "mode" || key === "refusal") continue;
    if (!Number.isFinite(forecast[key]) || forecast[key] < 0) forecast[key] = 0;
  }
  forecast.refusal = forecast.refusal.slice(0, MAX_REFUSAL);
  return forecast;
}
