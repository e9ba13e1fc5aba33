import type { Id, Terminal } from "../../api/types";
import type { Kind } from "../../parts/status";

export interface Group {
  machineId: Id;
  directory: string;
  members: Terminal[];
}

/** Sessions by machine and directory; whoever waits for somebody comes first, then what runs, then the newest. */
export function byDirectory(sessions: readonly Terminal[]): Group[] {
  const groups = new Map<string, Group>();
  for (const session of [...sessions].sort((a, b) => rank(a) - rank(b) || b.created_at.localeCompare(a.created_at))) {
    const directory = session.directory ?? "";
    const key = `${session.machine_id} ${directory}`;
    const group = groups.get(key) ?? { machineId: session.machine_id, directory, members: [] };
    group.members.push(session);
    groups.set(key, group);
  }
  return [...groups.values()];
}

const rank = (session: Terminal) => (session.waiting ? 0 : session.status === "ended" ? 2 : 1);

/** What a session is at, for a person. */
export function stateOf(session: Terminal): { state: string; kind: Kind } {
  if (session.waiting) return { state: "needs you", kind: "bad" };
  if (session.status === "ended") return session.end === "exited" && session.exit_code === 0 ? { state: "done", kind: "off" } : { state: "ended", kind: "off" };
  if (session.stale_since) return { state: "machine away", kind: "wait" };
  return { state: "working", kind: "busy" };
}
