import { useEffect } from "preact/hooks";
import { list } from "../api/client";
import type { Terminal } from "../api/types";
import { Empty } from "../parts/empty";
import { paced, useLoad } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { ending } from "../parts/terminal/wire";
import { Ago } from "../parts/time";
import { useEvents } from "../state/live";
import { loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { query, setQuery } from "../state/routing";
import { byDirectory, stateOf } from "./coding/grouping";
import { NewSession } from "./coding/new-session";
import { isTold, tellOfWaiting, toggleTelling } from "./coding/telling";

/** AI coding agents on all machines: which ones wait for somebody, first of all. */
export default function Coding() {
  useEffect(() => void loadMachines(), []);
  const found = useLoad((signal) => list<Terminal>("/terminals", { kind: "coding_session", limit: 100 }, signal), []);
  useEvents("coding_session.", paced(300, found.reload));
  useEvents("coding_session.waiting", (event) => tellOfWaiting(event));
  const sessions = found.data?.data ?? [];
  const waiting = sessions.filter((each) => each.waiting).length;
  useEffect(() => {
    document.title = `${waiting ? `(${waiting}) ` : ""}Coding · cmdop`;
  }, [waiting]);
  const nameOf = (id: string) => machines.value?.get(id)?.name ?? id;
  return (
    <>
      <header class="row">
        <h1>Coding sessions</h1>
        {waiting > 0 && <Status state="needs you" text={`${waiting} ${waiting === 1 ? "waits" : "wait"} for you`} />}
        <span class="push row">
          {"Notification" in globalThis && (
            <button class="small" aria-pressed={isTold.value} onClick={toggleTelling}>Notify me</button>
          )}
          {may("commands:execute") && <button class="main" onClick={() => setQuery({ new: "1" })}>New session</button>}
        </span>
      </header>
      <Problem error={found.error} retry={found.reload} />
      {found.data && !sessions.length && (
        <Empty title="No coding sessions">
          <p>Start Claude Code, Codex, Cursor, Gemini or OpenCode on a machine. It works on while nobody looks, and says when it waits for you.</p>
        </Empty>
      )}
      {byDirectory(sessions).map(({ machineId, directory, members }) => (
        <section key={`${machineId} ${directory}`} class="card group">
          <h2>
            <code>{directory}</code> <span class="dim">on {nameOf(machineId)}</span>
          </h2>
          <ul class="plain-list">
            {members.map((each) => (
              <li key={each.id} class="row">
                <Status {...stateOf(each)} />
                <a href={`/terminals/${each.id}`}>{each.name}</a>
                <span class="tag">{each.agent}</span>
                {each.model && <span class="tag">{each.model}</span>}
                {each.yolo && <span class="tag bad">acts without asking</span>}
                {each.worktree && <code class="dim">{each.worktree.branch}</code>}
                <span class="dim push">
                  {each.status === "ended" ? <>{ending({ ...each, message: each.error?.message ?? null })} <Ago at={each.ended_at} /></> : <>since <Ago at={each.created_at} /></>}
                </span>
              </li>
            ))}
          </ul>
        </section>
      ))}
      {query.value.get("new") !== null && (
        <NewSession machine={query.value.get("machine") ?? ""} known={sessions} close={() => setQuery({ new: null, machine: null })} />
      )}
    </>
  );
}
