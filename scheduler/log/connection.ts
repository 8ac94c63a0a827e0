/**
 * Options for the connection that a scheduler is given. nats-server may be killed and come back at any time, so the
 * client never gives up; a proposal's own deadline bounds how long anybody waits for it.
 */
export const connectionOptions = {
  reconnect: true,
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
  reconnectJitter: 50,
  // A peer that vanished without closing its socket is noticed after two unanswered pings.
  pingInterval: 5_000,
  maxPingOut: 2,
} as const;
