// The first page: every machine as it is now.

import { useEffect } from "preact/hooks";
import { counted } from "../parts/format";
import { Empty } from "../parts/empty";
import { Problem } from "../parts/problem";
import { byName, loadMachines, machines, machinesProblem } from "../state/machines";
import { may } from "../state/me";
import { query, setQuery } from "../state/routing";
import { AddDialog, Adding } from "./machines/adding";
import { type Asked, COLUMN_NAMES, COLUMNS, readAsked, type State, STATES, stateOf } from "./machines/order";
import { Rows } from "./machines/rows";
import { RunningNow } from "./machines/running";

const STATE_NAMES = { online: "Online", reconnecting: "Reconnecting", offline: "Offline", never: "Never connected" };

export default function Machines() {
  useEffect(() => void loadMachines(), []);
  const found = machines.value;
  const asked = readAsked(query.value);
  const isAdding = query.value.has("add");
  return (
    <>
      <header class="row head">
        <h1>Machines</h1>
        {found && found.size > 0 && <Summary />}
        {may("sessions:read") && <RunningNow />}
        {may("machines:write") && found && found.size > 0 && (
          <button type="button" class="main push" onClick={() => setQuery({ add: "1" })}>Add a machine</button>
        )}
      </header>
      <Problem error={machinesProblem.value} retry={loadMachines} />
      {found && (found.size > 0
        ? <><Filters asked={asked} /><Rows asked={asked} /></>
        : <NoMachines isOver={isAdding} />)}
      {isAdding && may("machines:write") && <AddDialog close={() => setQuery({ add: null })} />}
    </>
  );
}

function Summary() {
  const online = byName.value.filter((machine) => stateOf(machine) === "online").length;
  return <p class="dim">{counted(byName.value.length, "machine")}, {online} online</p>;
}

/** The whole page until the first one has joined; that one is then greeted by the dialog. */
function NoMachines({ isOver }: { isOver: boolean }) {
  if (!may("machines:write")) {
    return (
      <Empty title="No machine yet">
        <p>Machines that your key may see appear here. To add one it needs <code>machines:write</code>.</p>
      </Empty>
    );
  }
  return (
    <section class="card first-machine">
      <h2>Add your first machine</h2>
      <p>An agent on it dials out to this hub: there is no port to open. It appears here by itself.</p>
      {!isOver && <Adding onJoin={() => setQuery({ add: "1" })} />}
    </section>
  );
}

function Filters({ asked }: { asked: Asked }) {
  const count = (state: State) => byName.value.filter((machine) => stateOf(machine) === state).length;
  return (
    <form class="row machine-filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <input
        type="search"
        aria-label="Filter by name, host name or tag"
        placeholder="Filter: name, host name, tag:web   ( / )"
        value={asked.text}
        onInput={(event) => setQuery({ q: event.currentTarget.value })}
      />
      <select aria-label="State" value={asked.state} onChange={(event) => setQuery({ state: event.currentTarget.value })}>
        <option value="">Any state</option>
        {STATES.map((state) => <option key={state} value={state}>{STATE_NAMES[state]} ({count(state)})</option>)}
      </select>
      <select
        class="phone"
        aria-label="Order"
        value={`${asked.isDown ? "-" : ""}${asked.sort}`}
        onChange={(event) => setQuery({ sort: event.currentTarget.value })}
      >
        {COLUMNS.flatMap((column) => [
          <option key={column} value={column}>By {COLUMN_NAMES[column].toLowerCase()}</option>,
          <option key={`-${column}`} value={`-${column}`}>By {COLUMN_NAMES[column].toLowerCase()}, downwards</option>,
        ])}
      </select>
    </form>
  );
}
