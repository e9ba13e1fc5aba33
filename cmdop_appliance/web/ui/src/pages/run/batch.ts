// A batch as it stands, and as it goes on.

import { useEffect, useRef, useState } from "preact/hooks";
import { all, ApiError, get, remove } from "../../api/client";
import type { Command, CommandRecord, Id } from "../../api/types";
import { hasEnded } from "../../parts/ends";
import { paced } from "../../parts/loading";
import { epoch, useEvents } from "../../state/live";
import { isCommand, type Result } from "./fold";

export type Results = ReadonlyMap<Id, Result>;

const REFRESH_MS = 500;
const AT_ONCE = 6; // requests
/** Characters kept of each stream. */
const KEPT = 256 * 1024;

/** By machine; undefined: not known yet. */
export function useBatch(id: Id | null): { results: Results | undefined; error: unknown; refresh: () => void } {
  const [state, setState] = useState<{ id: Id | null; results: Results | undefined; error: unknown }>({ id, results: undefined, error: null });
  const current = state.id === id ? state : { id, results: undefined, error: null };
  const latest = useRef(current);
  latest.current = current;
  const refresh = useRef(() => {});

  useEffect(() => {
    if (!id) return;
    let isGone = false;
    let isBusy = false;
    let isDue = false;
    const show = (results: Results) => !isGone && setState({ id, results, error: null });
    const load = async () => {
      if (isBusy) return void (isDue = true);
      isBusy = true;
      try {
        const known = latest.current.results;
        if (known) await update(id, known, show);
        else show(new Map(Object.entries(await get<Record<Id, Result>>(`/commands/batch/${id}`)).map(([machine, result]) => [machine, shortened(result)])));
      } catch (error) {
        if (!isGone) setState((before) => ({ id, results: before.id === id ? before.results : undefined, error }));
      }
      isBusy = false;
      if (isDue && !isGone) {
        isDue = false;
        void load();
      }
    };
    refresh.current = () => void load();
    void load();
    return () => void (isGone = true);
  }, [id, epoch.value]);

  const soon = useRef(paced(REFRESH_MS, () => refresh.current()));
  useEvents("command.", ({ data }) => {
    if (id && data.batch_id === id) soon.current();
  });
  return { ...current, refresh: () => refresh.current() };
}

/** What has changed since, with the output of what has ended. Nothing tells of what is skipped but the list. */
async function update(id: Id, known: Results, show: (results: Results) => void): Promise<void> {
  const results = new Map(known);
  const ended: CommandRecord[] = [];
  for (const record of await all<CommandRecord>("/commands", { batch_id: id })) {
    const before = results.get(record.machine_id);
    const isNew = !before || !isCommand(before) || before.status !== record.status;
    if (isNew && hasEnded(record)) ended.push(record);
    else if (before && isCommand(before)) results.set(record.machine_id, { ...before, ...record });
  }
  show(new Map(results));
  for (let at = 0; at < ended.length; at += AT_ONCE) {
    const found = await Promise.all(ended.slice(at, at + AT_ONCE).map((record) => get<Command>(`/commands/${record.id}`)));
    for (const command of found) results.set(command.machine_id, shortened(command));
    show(new Map(results));
  }
}

function shortened(result: Result): Result {
  if (!isCommand(result)) return result;
  const { stdout, stderr } = result;
  return {
    ...result,
    stdout: stdout.slice(0, KEPT),
    stderr: stderr.slice(0, KEPT),
    stdout_truncated: result.stdout_truncated || stdout.length > KEPT,
    stderr_truncated: result.stderr_truncated || stderr.length > KEPT,
  };
}

/** End what waits, and then what runs: nothing is to begin in its place. */
export async function cancelAll(commands: readonly CommandRecord[]): Promise<void> {
  const open = commands.filter((command) => !hasEnded(command));
  for (const wave of [open.filter((each) => !each.started_at), open.filter((each) => each.started_at)]) {
    for (let at = 0; at < wave.length; at += AT_ONCE) await Promise.all(wave.slice(at, at + AT_ONCE).map(cancel));
  }
}

/** It may have ended by itself meanwhile. */
export async function cancel({ id }: Pick<CommandRecord, "id">): Promise<void> {
  try {
    await remove(`/commands/${id}`);
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 409)) throw error;
  }
}
