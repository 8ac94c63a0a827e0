import { createServer, type AddressInfo, type Socket } from "node:net";

import { expect, test } from "vitest";

import { apiAddress } from "./address.ts";
import { ApiClient } from "./api-client.ts";

test("a scheduler that takes connections and says nothing is not waited for without end", async () => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => void sockets.add(socket.on("error", () => undefined)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = server.address() as AddressInfo;
    using client = new ApiClient([apiAddress(`127.0.0.1:${port}`, {})]);
    await expect(client.call("status", {}, 100)).rejects.toMatchObject({
      code: "unavailable",
      message: expect.stringMatching(/takes the connection and does not answer/) as string,
    });
    expect(sockets.size).toBeGreaterThan(0);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
});
