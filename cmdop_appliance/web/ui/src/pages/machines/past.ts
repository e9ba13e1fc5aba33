// The CPU and traffic of machines before this page was opened, asked for only where somebody looks.

import { type Signal, signal } from "@preact/signals";
import { get } from "../../api/client";
import type { Id, Metrics } from "../../api/types";
import { type Moment, type Rates, ratesOfSteps } from "../../parts/rates";

const SPAN_MS = 15 * 60_000;
const DWELL_MS = 800; // a row that is scrolled over is not looked at
const AT_ONCE = 3;

interface Past {
  moments: readonly Moment[];
  /** null: nobody knows */
  rates: Rates | null;
}

const pastById = new Map<Id, Signal<Past>>();
const wanted = new Set<Id>();
let asking = 0;

export function pastOf(id: Id): Signal<Past> {
  let past = pastById.get(id);
  if (!past) pastById.set(id, (past = signal({ moments: [], rates: null })));
  return past;
}

const known = new Set<Id>();

/** A row of this machine is there; gives back what to call when it is gone. */
export function recall(id: Id): () => void {
  if (known.has(id)) return () => undefined;
  const timer = setTimeout(() => {
    wanted.add(id);
    void work();
  }, DWELL_MS);
  return () => {
    clearTimeout(timer);
    wanted.delete(id);
  };
}

async function work(): Promise<void> {
  if (asking >= AT_ONCE) return;
  asking++;
  for (const id of wanted) {
    wanted.delete(id);
    known.add(id);
    const from = new Date(Date.now() - SPAN_MS).toISOString();
    try {
      const metrics = await get<Metrics>(`/machines/${id}/metrics`, { from });
      pastOf(id).value = {
        moments: metrics.points.map(({ at, cpu_percent }) => ({ at: Date.parse(at), percent: cpu_percent })),
        rates: ratesOfSteps(metrics),
      };
    } catch {
      known.delete(id); // the line begins now instead
    }
  }
  asking--;
}
