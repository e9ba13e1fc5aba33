// Which machines the page shows, and in what order.

import type { Id, Load, Machine } from "../../api/types";
import { ratesOf } from "../../parts/rates";
import { collate } from "../../state/machines";

export const STATES = ["online", "reconnecting", "offline", "never"] as const;
export type State = (typeof STATES)[number];

export const COLUMNS = ["state", "name", "cpu", "memory", "disk", "network", "uptime", "agent"] as const;
export type Column = (typeof COLUMNS)[number];
export const COLUMN_NAMES: Record<Column, string> = {
  state: "State", name: "Name", cpu: "CPU", memory: "Memory", disk: "Disk", network: "Network", uptime: "Up for", agent: "Agent",
};

/** Orders by these change with every sample. */
const LIVE: readonly Column[] = ["cpu", "memory", "disk", "network", "uptime"];

export interface Asked {
  /** words of which each must be in the name, the host name or a tag; `tag:web` is that tag */
  text: string;
  state: State | "";
  sort: Column;
  isDown: boolean;
}

export function stateOf(machine: Machine): State {
  if (machine.session_status === "GRACE_PERIOD") return "reconnecting";
  if (machine.status === "online") return "online";
  return machine.last_seen ? "offline" : "never";
}

/** What the address asks for: `q`, `state`, and `sort` with a `-` for downwards. */
export function readAsked(query: URLSearchParams): Asked {
  const sort = query.get("sort") ?? "";
  const column = sort.replace(/^-/, "") as Column;
  const state = query.get("state") as State;
  return {
    text: query.get("q") ?? "",
    state: STATES.includes(state) ? state : "",
    sort: COLUMNS.includes(column) ? column : "name",
    isDown: sort.startsWith("-"),
  };
}

/** How the address asks for a column, where a click on its head changes that. */
export function sortBy(column: Column, asked: Asked): string | null {
  const isDown = column === asked.sort ? !asked.isDown : LIVE.includes(column);
  return column === "name" && !isDown ? null : `${isDown ? "-" : ""}${column}`;
}

export const isLive = (asked: Asked): boolean => LIVE.includes(asked.sort);

/** The text with a tag in it, or without it where it was. */
export function withTag(text: string, tag: string): string {
  const word = `tag:${tag}`;
  const words = text.split(/\s+/).filter(Boolean);
  return (words.includes(word) ? words.filter((each) => each !== word) : [...words, word]).join(" ");
}

/** Those that are asked for, in order; among equals by name. */
export function arrange(
  machines: Iterable<Machine>,
  asked: Asked,
  samples: (id: Id) => readonly Load[],
): Machine[] {
  const words = asked.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...machines].filter(
    (machine) => (!asked.state || stateOf(machine) === asked.state) && words.every((word) => fits(machine, word)),
  );
  const down = asked.isDown ? -1 : 1;
  if (asked.sort === "name") return found.sort((a, b) => down * collate(a.name, b.name));
  const value = (machine: Machine) => valueOf(machine, asked.sort, samples);
  return found
    .map((machine) => ({ machine, by: value(machine) }))
    .sort((a, b) => compare(a.by, b.by, down) || collate(a.machine.name, b.machine.name))
    .map(({ machine }) => machine);
}

function fits(machine: Machine, word: string): boolean {
  if (word.startsWith("tag:")) return machine.tags.some((tag) => tag.toLowerCase() === word.slice(4));
  return [machine.name, machine.hostname, ...machine.tags].some((text) => text.toLowerCase().includes(word));
}

function valueOf(machine: Machine, column: Column, samples: (id: Id) => readonly Load[]): number | string | null {
  if (column === "state") return STATES.indexOf(stateOf(machine));
  if (column === "agent") return machine.agent_version;
  if (machine.status !== "online") return null;
  const kept = samples(machine.id);
  const load = kept.at(-1);
  switch (column) {
    case "cpu": return load?.cpu_percent ?? null;
    case "memory": return load?.memory_percent ?? null;
    case "disk": return load?.disk_percent ?? null;
    case "uptime": return load?.uptime_seconds ?? null;
    case "network": {
      const rates = ratesOf(kept);
      return rates && rates.rx + rates.tx;
    }
    default: return machine.name;
  }
}

/** What nobody knows comes last, whichever way. */
function compare(a: number | string | null, b: number | string | null, down: number): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  return down * (typeof a === "number" && typeof b === "number" ? a - b : collate(String(a), String(b)));
}

/** `now` in the order that it had before: for as long as somebody points at it. */
export function held(before: readonly Id[], now: readonly Machine[]): Machine[] {
  const left = new Map(now.map((machine) => [machine.id, machine]));
  const stayed: Machine[] = [];
  for (const id of before) {
    const machine = left.get(id);
    if (machine) stayed.push(machine);
    left.delete(id);
  }
  return [...stayed, ...left.values()];
}
