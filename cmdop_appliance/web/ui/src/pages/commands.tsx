import { useEffect, useMemo, useRef } from "preact/hooks";
import type { CommandRecord } from "../api/types";
import { CommandState, MachineLink } from "../parts/command";
import { Empty } from "../parts/empty";
import { duration } from "../parts/format";
import { More, useListing } from "../parts/listing";
import { paced } from "../parts/loading";
import { Problem } from "../parts/problem";
import { type Column, Table } from "../parts/table";
import { Ago } from "../parts/time";
import { useEvents } from "../state/live";
import { byName, loadMachines } from "../state/machines";
import { may } from "../state/me";
import { query, setQuery } from "../state/routing";

const STATES: [value: string, name: string][] = [
  ["", "Any state"],
  ["pending,running", "Under way"],
  ["failed,timeout,lost,expired,skipped,cancelled", "Without success"],
  ["completed", "Completed"],
  ["failed", "Failed"],
  ["timeout", "Timeout"],
  ["cancelled", "Cancelled"],
  ["lost", "Lost"],
  ["expired", "Expired"],
  ["skipped", "Skipped"],
];
const REFRESH_MS = 1000;
const HOUR_MS = 3_600_000;
const SPANS: [value: string, name: string, ms: number][] = [
  ["", "Any time", 0],
  ["1h", "The last hour", HOUR_MS],
  ["1d", "The last day", 24 * HOUR_MS],
  ["7d", "The last 7 days", 7 * 24 * HOUR_MS],
  ["30d", "The last 30 days", 30 * 24 * HOUR_MS],
];

const COLUMNS: Column<CommandRecord>[] = [
  { name: "Command", class: "command-text", show: ({ id, command }) => <a href={`/commands/${id}`}><code>{command}</code></a> },
  { name: "Machine", show: ({ machine_id }) => <MachineLink id={machine_id} /> },
  { name: "State", show: (command) => <CommandState command={command} /> },
  { name: "Took", class: "number", show: (command) => (command.duration === null ? "" : duration(command.duration)) },
  { name: "Asked", show: ({ created_at }) => <Ago at={created_at} /> },
  { name: "By", class: "command-by", show: ({ user_email }) => user_email },
];

/** Everything that was run, newest first. */
export default function Commands() {
  useEffect(() => void loadMachines(), []);
  const [machine, status, span, batch] = ["machine", "status", "since", "batch"].map((name) => query.value.get(name) ?? "");
  const since = useMemo(() => {
    const ms = SPANS.find(([value]) => value === span)?.[2];
    return ms ? new Date(Date.now() - ms).toISOString() : "";
  }, [span]);
  const listing = useListing<CommandRecord>("/commands", { machine_id: machine, status, since, batch_id: batch });
  const { data, error, reload, rows } = listing;
  const soon = useRef(paced(REFRESH_MS, reload));
  useEvents("command.", soon.current);
  const isFiltered = [machine, status, span, batch].some(Boolean);
  return (
    <>
      <header class="row">
        <h1>Commands</h1>
        {may("commands:execute") && <a class="button main push" href="/run">Run a command</a>}
      </header>
      <div class="row filters" role="group" aria-label="Filter">
        <select aria-label="Machine" value={machine} onChange={(event) => setQuery({ machine: event.currentTarget.value })}>
          <option value="">Any machine</option>
          {machine && !byName.value.some(({ id }) => id === machine) && <option value={machine}>{machine}</option>}
          {byName.value.map(({ id, name }) => <option key={id} value={id}>{name}</option>)}
        </select>
        <select aria-label="State" value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
          {STATES.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
        </select>
        <select aria-label="Since" value={span} onChange={(event) => setQuery({ since: event.currentTarget.value })}>
          {SPANS.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
        </select>
        {batch && (
          <button type="button" class="small" title="Take this filter away" onClick={() => setQuery({ batch: null })}>
            {batch} <span aria-hidden="true">✕</span>
          </button>
        )}
      </div>
      <Problem error={error} retry={reload} />
      {rows.length > 0 && <Table label="Commands" columns={COLUMNS} rows={rows} id={({ id }) => id} />}
      <More of={listing} />
      {data?.length === 0 && (isFiltered
        ? (
          <Empty title="No command fits these filters">
            <button type="button" onClick={() => setQuery({ machine: null, status: null, since: null, batch: null })}>Show all commands</button>
          </Empty>
        )
        : (
          <Empty title="Nothing was run yet">
            <p>Every command that runs on a machine is listed here, with its output and how it ended.</p>
            <a class="button main" href="/run">Run a command</a>
          </Empty>
        ))}
    </>
  );
}
