import { useEffect, useState } from "preact/hooks";
import { get } from "../api/client";
import type { AuditEntry } from "../api/types";
import { Dialog } from "../parts/dialog";
import { Empty } from "../parts/empty";
import { More, useListing } from "../parts/listing";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { clock } from "../parts/when";
import { loadMachines, machines } from "../state/machines";
import { query, setQuery } from "../state/routing";
import { save } from "./audit/saving";

const FILTERS = ["action", "actor", "target"] as const;

/** Who did what; the address has the filters, so that a view of it can be passed on. */
export default function Audit() {
  const filters = Object.fromEntries([...FILTERS, "outcome", "since"].map((name) => [name, query.value.get(name) ?? ""]));
  const found = useListing<AuditEntry>("/audit", filters);
  const [opened, setOpened] = useState<AuditEntry | null>(null);
  const [failed, setFailed] = useState<unknown>(null);
  useEffect(() => void loadMachines(), []);
  return (
    <>
      <header class="row">
        <h1>Audit</h1>
        <Proof />
        <span class="push row">
          <button class="small" onClick={() => save("jsonl", filters).catch(setFailed)}>Save as JSONL</button>
          <button class="small" onClick={() => save("csv", filters).catch(setFailed)}>Save as CSV</button>
        </span>
      </header>
      <form class="row filters" onSubmit={(event) => event.preventDefault()}>
        {FILTERS.map((name) => (
          <input
            key={name}
            type="search"
            aria-label={`Filter by ${name}`}
            placeholder={{ action: "action, such as api_key.created", actor: "actor: an email", target: "target: an id" }[name]}
            value={filters[name]}
            onChange={(event) => setQuery({ [name]: event.currentTarget.value.trim() })}
          />
        ))}
        <select aria-label="Filter by outcome" value={filters.outcome} onChange={(event) => setQuery({ outcome: event.currentTarget.value })}>
          <option value="">done and refused</option>
          <option value="ok">done</option>
          <option value="refused">refused</option>
        </select>
      </form>
      <Problem error={failed ?? found.error} retry={found.reload} />
      {found.data && !found.rows.length && <Empty title="Nothing fits"><p>No entry of the log fits these filters.</p></Empty>}
      {found.rows.length > 0 && (
        <Table
          label="Audit log"
          rows={found.rows}
          id={(entry) => String(entry.seq)}
          columns={[
            { name: "When", show: (entry) => <Ago at={entry.at} /> },
            { name: "Who", show: (entry) => <button class="plain link" title={entry.actor} onClick={() => setQuery({ actor: entry.actor })}>{machines.value?.get(entry.actor)?.name ?? entry.actor}</button> },
            { name: "What", show: (entry) => <button class="plain link" onClick={() => setQuery({ action: entry.action })}>{entry.action}</button> },
            { name: "On", show: (entry) => <Target id={entry.target} /> },
            { name: "Outcome", show: (entry) => <Status state={entry.outcome === "ok" ? "done" : "refused"} kind={entry.outcome === "ok" ? "off" : "bad"} /> },
            { name: "", show: (entry) => <button class="small" onClick={() => setOpened(entry)}>Details</button> },
          ]}
        />
      )}
      <More of={found} />
      {opened && (
        <Dialog title={`${opened.action}, entry ${opened.seq}`} close={() => setOpened(null)}>
          <p>{opened.actor}, {clock(Date.parse(opened.at))}</p>
          <pre class="scroll">{JSON.stringify(opened.details, null, 2)}</pre>
          <p class="dim mono">{opened.hash}</p>
        </Dialog>
      )}
    </>
  );
}

/** A machine by its name, as long as it is there; anything else by its id. */
function Target({ id }: { id: string }) {
  const machine = machines.value?.get(id);
  return machine ? <a href={`/machines/${id}`} title={id}>{machine.name}</a> : <code>{id || "–"}</code>;
}

/** Whether each entry is as it was recorded, when somebody asks. */
function Proof() {
  const [proof, setProof] = useState<{ ok: boolean; entries: number } | null>(null);
  const [error, setError] = useState<unknown>(null);
  const check = () => get<{ ok: boolean; entries: number }>("/audit/verify").then(setProof, setError);
  return (
    <span class="row" role="status">
      {!proof && <button class="small" onClick={check}>Check that it is whole</button>}
      {proof?.ok && <Status state="whole" kind="good" text={`All ${proof.entries} entries are as they were recorded`} />}
      {proof && !proof.ok && <Status state="changed" kind="bad" text={`The log was changed behind entry ${proof.entries}`} />}
      <Problem error={error} />
    </span>
  );
}
