import { type ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get } from "../api/client";
import type { Terminal } from "../api/types";
import type { PageProps } from "../pages";
import { CopyButton } from "../parts/copy";
import { useLoad } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { ending } from "../parts/terminal/wire";
import { Ago } from "../parts/time";
import { epoch, useEvents } from "../state/live";
import { loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { EndTerminal } from "./terminals";

type Screen = ComponentType<{ terminal: Terminal; mayType: boolean }>;

/** One terminal or coding session: its screen while it runs, how it ended afterwards. */
export default function TerminalPage({ params }: PageProps) {
  const id = params.id!;
  const found = useLoad((signal) => get<Terminal>(`/terminals/${id}`, {}, signal), [id]);
  const [Screen, setScreen] = useState<Screen | null>(null);
  const [failed, setFailed] = useState<unknown>(null);
  const [isEnding, setEnding] = useState(false);
  useEffect(() => void loadMachines(), []);
  useEffect(() => {
    const take = (module: { default: Screen }) => {
      setScreen(() => module.default);
      setFailed(null);
    };
    import("../parts/terminal/screen").then(take, setFailed);
  }, [!Screen && epoch.value]); // what did not come, the hub being away, comes when it is back
  useEvents("coding_session.", (event) => event.data.session_id === id && found.reload());
  const terminal = found.data;
  useEffect(() => {
    if (terminal) document.title = `${terminal.name} · cmdop`;
  }, [terminal?.name]);
  if (!terminal) return <Problem error={found.error} retry={found.reload} />;
  const machine = machines.value?.get(terminal.machine_id);
  const isOver = terminal.status === "ended";
  return (
    <section class="terminal-page">
      <header class="row">
        <h1>{terminal.name}</h1>
        <a href={`/machines/${terminal.machine_id}`}>{machine?.name ?? terminal.machine_id}</a>
        {terminal.agent && <span class="tag">{terminal.agent}</span>}
        {terminal.yolo && <span class="tag bad">acts without asking</span>}
        {terminal.waiting && <Status state="needs you" />}
        {terminal.directory && <code class="dim">{terminal.worktree?.path ?? terminal.directory}</code>}
        <span class="push row">
          <CopyButton text={`cmdop sessions attach ${terminal.id}`} label="Copy as CLI" />
          {terminal.recorded && <a class="button small" download={`${terminal.id}.cast`} href={`/api/v1/terminals/${id}/recording`}>Recording</a>}
          {!isOver && may("commands:execute") && <button class="small danger" onClick={() => setEnding(true)}>End</button>}
        </span>
      </header>
      <Problem error={failed} />
      {terminal.status === "starting" && <p role="status">It starts when its machine is back.</p>}
      {isOver && (
        <p class="card">
          {ending({ ...terminal, message: terminal.error?.message ?? null })} <Ago at={terminal.ended_at} />
        </p>
      )}
      {!isOver && Screen && <Screen key={id} terminal={terminal} mayType={may("commands:execute")} />}
      {isEnding && <EndTerminal terminal={terminal} machine={machine?.name ?? ""} close={() => setEnding(false)} done={found.reload} />}
    </section>
  );
}
