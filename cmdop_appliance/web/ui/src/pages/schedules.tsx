import { useEffect, useState } from "preact/hooks";
import { patch } from "../api/client";
import type { Schedule } from "../api/types";
import { Empty } from "../parts/empty";
import { More, useListing } from "../parts/listing";
import { paced } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { useEvents } from "../state/live";
import { loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { go, query, setQuery } from "../state/routing";
import { Editor } from "./schedules/editor";
import { RecentBars } from "./schedules/history";
import { RunNow } from "./schedules/run-now";

/** What the hub starts by rules, with how it went. */
export default function Schedules() {
  const enabled = query.value.get("enabled") ?? "";
  const found = useListing<Schedule>("/schedules", { enabled });
  const [failed, setFailed] = useState<unknown>(null);
  useEffect(() => void loadMachines(), []);
  const look = paced(500, found.reload);
  useEvents("schedule.", look);
  useEvents("command.", (event) => event.data.schedule_id !== undefined && look());
  const mayWrite = may("schedules:write");
  const toggle = (schedule: Schedule) =>
    patch(`/schedules/${schedule.id}`, { enabled: !schedule.enabled }).then(found.reload, setFailed);
  return (
    <>
      <header class="row">
        <h1>Schedules</h1>
        <label class="row push">
          Show
          <select value={enabled} onChange={(event) => setQuery({ enabled: event.currentTarget.value })}>
            <option value="">all</option>
            <option value="true">active</option>
            <option value="false">paused</option>
          </select>
        </label>
        {mayWrite && <button class="main" onClick={() => setQuery({ new: "1" })}>New schedule</button>}
      </header>
      <Problem error={failed ?? found.error} retry={found.reload} />
      {found.data && !found.rows.length && (
        <Empty title="No schedules">
          <p>A schedule runs a command by a rule, such as every night, on one machine or on all that carry a tag. It says afterwards how it went, also when nothing ran.</p>
        </Empty>
      )}
      {found.rows.length > 0 && (
        <Table
          label="Schedules"
          rows={found.rows}
          id={(row) => row.id}
          columns={[
            { name: "State", show: (row) => <Status state={row.paused ? "held" : row.enabled ? "active" : "paused"} kind={row.paused ? "bad" : row.enabled ? "good" : "off"} /> },
            { name: "Name", show: (row) => <a href={`/schedules/${row.id}`}>{row.name}</a> },
            { name: "Rule", show: (row) => <span title={`${row.cron} ${row.timezone}`}>{row.rule}</span> },
            { name: "Where", show: (row) => <Where of={row} /> },
            { name: "Last runs", show: (row) => <RecentBars id={row.id} turn={found.data} /> },
            { name: "Next", show: (row) => <Ago at={row.next_run} none="–" /> },
            {
              name: "",
              show: (row) => mayWrite && (
                <span class="row">
                  <RunNow schedule={row} />
                  <button class="small" onClick={() => toggle(row)}>{row.enabled ? "Pause" : "Resume"}</button>
                </span>
              ),
            },
          ]}
        />
      )}
      <More of={found} />
      {query.value.get("new") !== null && (
        <Editor from={null} isNew close={() => setQuery({ new: null })} done={(made) => go(`/schedules/${made.id}`)} />
      )}
    </>
  );
}

/** On which machines a schedule runs. */
export function Where({ of }: { of: Schedule }) {
  if (of.tags) return <>all with {of.tags.map((tag) => <span class="tag" key={tag}>{tag}</span>)}</>;
  const ids = of.machine_ids ?? [of.machine_id!];
  const [first, ...others] = ids.map((id) => machines.value?.get(id)?.name ?? id);
  return <span title={[first, ...others].join(", ")}><a href={`/machines/${ids[0]}`}>{first}</a>{others.length > 0 && ` and ${others.length} more`}</span>;
}
