import { useEffect, useState } from "preact/hooks";
import { get, patch, remove } from "../api/client";
import type { Run, Schedule } from "../api/types";
import type { PageProps } from "../pages";
import { Dialog } from "../parts/dialog";
import { duration } from "../parts/format";
import { More, useListing } from "../parts/listing";
import { paced, useLoad } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { toast } from "../parts/toast";
import { useEvents } from "../state/live";
import { loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { go } from "../state/routing";
import { Where } from "./schedules";
import { Editor } from "./schedules/editor";
import { Bars } from "./schedules/history";
import { Shown } from "./schedules/rule-field";
import { RunNow } from "./schedules/run-now";

/** One schedule: its rule, what it runs, and every run with why it went so. */
export default function SchedulePage({ params }: PageProps) {
  const id = params.id!;
  const found = useLoad((signal) => get<Schedule>(`/schedules/${id}`, {}, signal), [id]);
  const history = useListing<Run>(`/schedules/${id}/history`);
  const [open, setOpen] = useState<"edit" | "clone" | "remove" | null>(null);
  const [failed, setFailed] = useState<unknown>(null);
  useEffect(() => void loadMachines(), []);
  const look = paced(500, () => {
    found.reload();
    history.reload();
  });
  useEvents("", (event) => (event.data.schedule_id === id || event.type.startsWith("command.")) && look());
  const schedule = found.data;
  if (!schedule) return <Problem error={found.error} retry={found.reload} />;
  const close = () => setOpen(null);
  const nameOf = (machine: string | null) => (machine ? machines.value?.get(machine)?.name ?? machine : "–");
  return (
    <>
      <header class="row">
        <h1>{schedule.name}</h1>
        <Status state={schedule.paused ? "held" : schedule.enabled ? "active" : "paused"} kind={schedule.paused ? "bad" : schedule.enabled ? "good" : "off"} />
        {may("schedules:write") && (
          <span class="push row">
            <RunNow schedule={schedule} />
            <button class="small" onClick={() => patch(`/schedules/${id}`, { enabled: !schedule.enabled }).then(found.reload, setFailed)}>
              {schedule.enabled ? "Pause" : "Resume"}
            </button>
            <button class="small" onClick={() => setOpen("edit")}>Change</button>
            <button class="small" onClick={() => setOpen("clone")}>Copy</button>
            <button class="small danger" onClick={() => setOpen("remove")}>Delete</button>
          </span>
        )}
      </header>
      <Problem error={failed} />
      {schedule.paused && <p class="problem">The hub fires nothing now: {schedule.paused}</p>}
      <section class="card group">
        <pre class="scroll">{schedule.command}</pre>
        <p>On <Where of={schedule} />{schedule.user && <> as <b>{schedule.user}</b></>}{schedule.cwd && <> in <code>{schedule.cwd}</code></>}. By {schedule.user_email}.</p>
        {schedule.enabled ? <Shown cron={schedule.cron} timezone={schedule.timezone} /> : <p>{schedule.rule} ({schedule.timezone}), when it is resumed.</p>}
      </section>
      <h2>Runs <Bars runs={history.rows} /></h2>
      <Problem error={history.error} retry={history.reload} />
      {history.data && !history.rows.length && <p class="dim">It has not run yet.</p>}
      {history.rows.length > 0 && (
        <Table
          label="Runs"
          rows={history.rows}
          id={(run) => run.id}
          columns={[
            { name: "State", show: (run) => <Status state={run.status} /> },
            { name: "Due", show: (run) => (run.scheduled_at ? <Ago at={run.scheduled_at} /> : <span class="dim">by hand, <Ago at={run.started_at} /></span>) },
            { name: "Machine", show: (run) => nameOf(run.machine_id) },
            { name: "Exit code", class: "number", show: (run) => run.exit_code ?? "–" },
            { name: "Took", class: "number", show: (run) => (run.duration === null ? "–" : duration(run.duration)) },
            { name: "Why", show: (run) => run.message ?? run.reason ?? "" },
            { name: "", show: (run) => run.command_id && <a href={`/commands/${run.command_id}`}>Output</a> },
          ]}
        />
      )}
      <More of={history} />
      {(open === "edit" || open === "clone") && (
        <Editor
          from={open === "clone" ? { ...schedule, name: `${schedule.name} (copy)` } : schedule}
          isNew={open === "clone"}
          close={close}
          done={(saved) => {
            close();
            if (saved.id === id) found.reload();
            else go(`/schedules/${saved.id}`);
          }}
        />
      )}
      {open === "remove" && <Remove schedule={schedule} close={close} />}
    </>
  );
}

function Remove({ schedule, close }: { schedule: Schedule; close: () => void }) {
  const [error, setError] = useState<unknown>(null);
  const act = () =>
    remove(`/schedules/${schedule.id}`).then(() => {
      toast(`${schedule.name} is deleted`);
      go("/schedules");
    }, setError);
  return (
    <Dialog title={`Delete ${schedule.name}?`} close={close}>
      <p>It runs no more, and its history goes. What runs now, runs on.</p>
      <Problem error={error} />
      <p class="row">
        <button class="danger" onClick={act}>Delete it</button>
        <button onClick={close}>Cancel</button>
      </p>
    </Dialog>
  );
}
