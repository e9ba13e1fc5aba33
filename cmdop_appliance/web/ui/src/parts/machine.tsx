// What several pages show of a machine.

import type { Load, Machine } from "../api/types";
import { now, Ago } from "./time";
import { Status } from "./status";

/** Whether it is there; while it comes back, how long its commands wait for it. */
export function MachineState({ machine }: { machine: Pick<Machine, "status" | "session_status" | "grace_until" | "last_seen"> }) {
  if (machine.session_status === "GRACE_PERIOD") {
    const left = machine.grace_until ? Math.ceil((Date.parse(machine.grace_until) - now.value) / 1000) : 0;
    return <span><Status state="reconnecting" text="Reconnecting" /> {left > 0 && <small class="dim">{left} s</small>}</span>;
  }
  if (machine.status === "online") return <Status state="online" text="Online" />;
  if (!machine.last_seen) return <Status state="never" text="Never connected" />;
  return <span><Status state="offline" text="Offline" /> <small class="dim"><Ago at={machine.last_seen} /></small></span>;
}

const FULL = 90; // percent, from which on somebody should look

/** A share of a whole, as a number and as a bar. */
export function Bar({ percent }: { percent: number }) {
  return <span class={percent >= FULL ? "bar full" : "bar"} style={{ "--share": `${Math.min(100, percent)}%` }}>{Math.round(percent)} %</span>;
}

export const MEASURES = [
  { name: "CPU", of: (load: Load) => load.cpu_percent },
  { name: "Memory", of: (load: Load) => load.memory_percent },
  { name: "Disk", of: (load: Load) => load.disk_percent },
] as const;
