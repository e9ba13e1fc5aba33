// The machines of the workspace, kept as they are now: a list once, then events and loads.

import { computed, type Signal, signal } from "@preact/signals";
import { all, ApiError, get } from "../api/client";
import type { HubEvent, Id, Load, Machine } from "../api/types";
import { epoch, onEvent, onLoads } from "./live";
import { may } from "./me";

/** By id; undefined: not asked yet. */
export const machines = signal<ReadonlyMap<Id, Machine> | undefined>(undefined);
export const machinesProblem = signal<unknown>(null);

/** Orders names as people do: web-2 before web-10. */
export const collate = new Intl.Collator(undefined, { numeric: true }).compare;

export const byName = computed(() => [...(machines.value?.values() ?? [])].sort((a, b) => collate(a.name, b.name)));
export const tags = computed(() => [...new Set(byName.value.flatMap((machine) => machine.tags))].sort());

const KEPT = 60; // samples of a machine: a quarter of an hour, for its sparkline
const FLUSH_MS = 500; // changes reach the page at most twice a second
const RETRY_MS = 5000;
const SINGLY = 20; // more than these at a time are one list

const samplesById = new Map<Id, Signal<readonly Load[]>>();
const stale = new Set<Id>();
let timer = 0;
let isWanted = false;
let asked = -1; // the epoch of the list that is here; -1: none is, or it is to be asked for anew
let asking: Promise<void> | null = null;

/** The newest samples of one machine, the oldest first. What shows them redraws alone. */
export function samplesOf(id: Id): Signal<readonly Load[]> {
  let samples = samplesById.get(id);
  if (!samples) samplesById.set(id, (samples = signal([])));
  return samples;
}

/** Ask for the list, unless it is here and nothing was missed since, or the key may not see it. */
export async function loadMachines(): Promise<void> {
  if (!may("machines:read")) return;
  isWanted = true;
  if (asked !== epoch.value) await catchUp();
}

/** Ask for what has changed. One request follows another: no answer overwrites a newer one. */
function catchUp(): Promise<void> {
  return (asking ??= ask().finally(() => (asking = null)));
}

async function ask(): Promise<void> {
  while (asked !== epoch.peek() || (stale.size && !timer)) {
    const isWell = asked !== epoch.peek() || stale.size > SINGLY ? await askForAll() : await askForSome();
    if (!isWell) return;
  }
}

/** False: it failed. */
async function askForAll(): Promise<boolean> {
  const turn = epoch.peek();
  stale.clear();
  try {
    const found = await all<Machine>("/machines", { sort: "name" });
    for (const { id, load } of found) if (load) take({ ...load, id });
    machines.value = new Map(found.map((machine) => [machine.id, machine]));
    machinesProblem.value = null;
    asked = turn;
  } catch (error) {
    machinesProblem.value = error;
    asked = -1;
    if (!(error instanceof ApiError && error.status === 403)) catchUpIn(RETRY_MS);
  }
  return asked === turn;
}

epoch.subscribe(() => {
  if (isWanted) void catchUp();
});
onEvent("machine.", note);
onEvent("session.", note);
onLoads((loads) => loads.forEach(take));

/** Keep a sample, unless it is here. */
export function take(load: Load): void {
  const samples = samplesOf(load.id);
  const kept = samples.peek();
  if (!kept.length || load.at > kept.at(-1)!.at) samples.value = [...kept.slice(1 - KEPT), load];
}

/** A machine has changed: it is asked for again, together with the others of this half second. */
function note(event: HubEvent): void {
  const id = event.data.machine_id;
  if (typeof id !== "string" || !(machines.peek() || asking)) return;
  stale.add(id);
  catchUpIn(FLUSH_MS);
}

function catchUpIn(ms: number): void {
  timer ||= window.setTimeout(() => {
    timer = 0;
    void catchUp();
  }, ms);
}

/** False: some of it failed. */
async function askForSome(): Promise<boolean> {
  const ids = [...stale];
  stale.clear();
  const found = await Promise.all(ids.map(askFor));
  const next = new Map(machines.peek());
  let isWell = true;
  for (const [index, id] of ids.entries()) {
    const machine = found[index];
    if (machine) {
      next.set(id, machine);
      if (machine.load) take({ ...machine.load, id });
    } else if (machine === null) next.delete(id);
    else {
      isWell = false;
      stale.add(id);
    }
  }
  machines.value = next;
  if (!isWell) catchUpIn(RETRY_MS);
  return isWell;
}

/** null: it is not there any more; undefined: nobody can say. */
async function askFor(id: Id): Promise<Machine | null | undefined> {
  try {
    return await get<Machine>(`/machines/${id}`);
  } catch (error) {
    return error instanceof ApiError && error.status === 404 ? null : undefined;
  }
}
