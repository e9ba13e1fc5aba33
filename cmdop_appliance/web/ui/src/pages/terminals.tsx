import { useEffect, useState } from "preact/hooks";
import { ApiError, post, remove } from "../api/client";
import type { Machine, Terminal } from "../api/types";
import { Dialog } from "../parts/dialog";
import { Empty } from "../parts/empty";
import { Field, reasonOf } from "../parts/field";
import { More, useListing } from "../parts/listing";
import { paced } from "../parts/loading";
import { useOnce } from "../parts/once";
import { MachineField } from "../parts/machine-field";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { Table } from "../parts/table";
import { ending } from "../parts/terminal/wire";
import { Ago } from "../parts/time";
import { toast } from "../parts/toast";
import { useEvents } from "../state/live";
import { byName, loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { go, query, setQuery } from "../state/routing";

/** Terminals of all machines, those that run first. */
export default function Terminals() {
  const status = query.value.get("status") ?? "";
  useEffect(() => void loadMachines(), []);
  const found = useListing<Terminal>("/terminals", { kind: "terminal", status });
  useEvents("session.", paced(500, found.reload));
  const isNew = query.value.get("new") !== null;
  return (
    <>
      <header class="row">
        <h1>Terminals</h1>
        <label class="row push">
          Show
          <select value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
            <option value="">all</option>
            <option value="running">running</option>
            <option value="ended">ended</option>
          </select>
        </label>
        {may("commands:execute") && <button class="main" onClick={() => setQuery({ new: "1" })}>New terminal</button>}
      </header>
      <Problem error={found.error} retry={found.reload} />
      {found.data && !found.rows.length && (
        <Empty title="No terminals">
          <p>A terminal is a shell on a machine that runs on when you leave: come back to it from any browser, or with <code>cmdop connect</code>.</p>
        </Empty>
      )}
      {found.rows.length > 0 && <TerminalTable rows={found.rows} reload={found.reload} />}
      <More of={found} />
      {isNew && <NewTerminal machine={query.value.get("machine") ?? ""} close={() => setQuery({ new: null, machine: null })} />}
    </>
  );
}

function TerminalTable({ rows, reload }: { rows: Terminal[]; reload: () => void }) {
  const [ended, setEnded] = useState<Terminal | null>(null);
  const nameOf = (id: string) => machines.value?.get(id)?.name ?? id;
  return (
    <>
      <Table
        label="Terminals"
        rows={rows}
        id={(row) => row.id}
        columns={[
          { name: "State", show: (row) => <Status state={row.stale_since ? "machine away" : row.status} kind={row.status === "ended" ? "off" : row.stale_since ? "wait" : "good"} /> },
          { name: "Name", show: (row) => <a href={`/terminals/${row.id}`}>{row.name}</a> },
          { name: "Machine", show: (row) => <a href={`/machines/${row.machine_id}`}>{nameOf(row.machine_id)}</a> },
          { name: "Program", show: (row) => <code>{row.argv?.length ? row.argv.join(" ") : "login shell"}</code> },
          { name: "Watching", class: "number", show: (row) => row.viewers.operators + row.viewers.observers },
          { name: "Opened", show: (row) => <><Ago at={row.created_at} /> <span class="dim">by {row.user_email}</span></> },
          {
            name: "",
            show: (row) =>
              row.status === "ended" ? <span class="dim">{ending({ ...row, message: row.error?.message ?? null })}</span>
              : may("commands:execute") && <button class="small danger" onClick={() => setEnded(row)}>End</button>,
          },
        ]}
      />
      {ended && <EndTerminal terminal={ended} machine={nameOf(ended.machine_id)} close={() => setEnded(null)} done={reload} />}
    </>
  );
}

/** Ask before what runs in a terminal is ended. */
export function EndTerminal({ terminal, machine, close, done }: { terminal: Terminal; machine: string; close: () => void; done: () => void }) {
  const [error, setError] = useState<unknown>(null);
  const end = async () => {
    try {
      await remove(`/terminals/${terminal.id}`);
    } catch (problem) {
      if (!(problem instanceof ApiError && problem.status === 409)) return setError(problem); // it had ended
    }
    toast(`${terminal.name} ends`);
    close();
    done();
  };
  return (
    <Dialog title={`End ${terminal.name} on ${machine}?`} close={close}>
      <p>What runs in it is told to stop, and is killed after 10 s.</p>
      <Problem error={error} />
      <p class="row">
        <button class="danger" onClick={end}>End it</button>
        <button onClick={close}>Cancel</button>
      </p>
    </Dialog>
  );
}

function NewTerminal({ machine, close }: { machine: string; close: () => void }) {
  const online = byName.value.filter((each) => each.status === "online");
  const [chosen, setChosen] = useState(machine);
  const [name, setName] = useState("");
  const [user, setUser] = useState("");
  const [cwd, setCwd] = useState("");
  const { isBusy, error, act } = useOnce();
  const target: Machine | undefined = online.find((each) => each.id === chosen) ?? online[0];
  const open = () =>
    act(async (key) => {
      const body = Object.fromEntries(Object.entries({ name, user, cwd }).filter(([, value]) => value));
      const opened = await post<Terminal>(`/machines/${target!.id}/terminals`, body, key);
      go(`/terminals/${opened.id}`);
    });
  return (
    <Dialog title="New terminal" close={close}>
      {machines.value && !online.length && <p>No machine is online.</p>}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void open();
        }}
      >
        <Problem error={error} />
        <MachineField machines={online} chosen={target} choose={setChosen} />
        <Field label="Name" hint="By it you find it again; one of this name that runs is opened instead." error={reasonOf(error, "name")}>
          <input value={name} onInput={(event) => setName(event.currentTarget.value)} placeholder="main" />
        </Field>
        <details>
          <summary>More</summary>
          <Field label="Directory" error={reasonOf(error, "cwd")}>
            <input value={cwd} onInput={(event) => setCwd(event.currentTarget.value)} placeholder="the user's home" />
          </Field>
          <Field label="User" error={reasonOf(error, "user")}>
            <input value={user} onInput={(event) => setUser(event.currentTarget.value)} placeholder="whom the agent runs as" />
          </Field>
        </details>
        <button class="main" disabled={isBusy || !target}>{isBusy ? "Opening…" : "Open"}</button>
      </form>
    </Dialog>
  );
}
