// A state, by shape, text and colour at once.

const KINDS = {
  good: "●",
  busy: "◐",
  wait: "◷",
  bad: "▲",
  off: "○",
  lost: "✕",
} as const;

export type Kind = keyof typeof KINDS;

const OF: Record<string, Kind> = {
  online: "good", completed: "good", delivered: "good", enabled: "good", success: "good",
  reconnecting: "busy", running: "busy", starting: "busy", sending: "busy",
  pending: "wait", waiting: "wait", queued: "wait", missed: "wait", paused: "wait",
  failed: "bad", timeout: "bad", dead: "bad", "needs you": "bad",
  lost: "lost", expired: "lost", revoked: "lost",
};

export function Status({ state, text = state, kind = OF[state] ?? "off" }: {
  state: string;
  text?: string;
  kind?: Kind;
}) {
  return (
    <span class={`status ${kind}`}>
      <span aria-hidden="true">{KINDS[kind]}</span> {text}
    </span>
  );
}
