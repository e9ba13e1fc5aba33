"""The language of the agent link, sans-I/O: it knows bytes and messages, no sockets and no clock.

    agent                                 hub
      hello      ────────────────────────►
      ◄──────────────────────── challenge      hub proves its key to the agent's nonce
      prove      ────────────────────────►     machine proves its key, or joins with a token
      ◄────────────────────────── welcome      session and epoch of this connection; what the
                                               hub understands beyond the first release
      inventory* ────────────────────────►     every command the agent knows
      ready      ────────────────────────►     the session is CONNECTED
      ◄── dispatch cancel resume stored sampled acknowledge heartbeat_ack ──
      ── heartbeat samples background started output finished rejected ──►
      bye        ────────────────────────►     a graceful stop skips the grace period

Text frames carry JSON messages, one or more, a line each; binary frames carry output bytes. What
a peer sends is understood or blamed on it with `RemoteProtocolError`; nothing else is ever raised
for bytes received.
"""
