import type { Event } from "../../proto/gen/godwit/v1/api.ts";

export type Happening = Pick<Event, "kind" | "subject" | "message">;

export const happening = (kind: string, subject: string, message = ""): Happening => ({
  kind,
  subject,
  message,
});
