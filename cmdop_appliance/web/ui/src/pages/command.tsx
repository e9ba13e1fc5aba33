import { useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, get, remove } from "../api/client";
import type { Command, CommandRecord, HubEvent } from "../api/types";
import { CopyButton } from "../parts/copy";
import { Empty } from "../parts/empty";
import { hasEnded } from "../parts/ends";
import { bytes } from "../parts/format";
import { useLoad } from "../parts/loading";
import { CommandLog, Download } from "../parts/log/command-log";
import { useFollowing } from "../parts/log/following";
import { Problem } from "../parts/problem";
import { asPython } from "../parts/python";
import { curl } from "../parts/shell";
import { useEvents } from "../state/live";
import { loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { go } from "../state/routing";
import type { PageProps } from "../pages";
import { Facts } from "./command/facts";
import { asDraft, draftOf } from "./run/draft";
import { asCli } from "./run/options";

/** One command: how it went, and all that it wrote. */
export default function CommandPage({ params }: PageProps) {
  const id = params.id!;
  const { data, error, reload } = useLoad((signal) => get<Command>(`/commands/${id}`, {}, signal), [id]);
  useEffect(() => void loadMachines(), []);
  if (error instanceof ApiError && error.status === 404) {
    return (
      <Empty title="There is no such command">
        <p>Its record may have been removed, or it was another hub's.</p>
        <a class="button main" href="/commands">All commands</a>
      </Empty>
    );
  }
  return (
    <>
      <Problem error={error} retry={reload} />
      {data && <Shown key={id} first={data} />}
    </>
  );
}

function Shown({ first }: { first: Command }) {
  const { id } = first;
  const following = useFollowing(id);
  const [news, setNews] = useState<Partial<CommandRecord>>({});
  const [problem, setProblem] = useState<unknown>(null);
  const isLive = useMemo(() => !hasEnded(first), [id]);
  useEvents("command.", (event) => {
    if (event.data.command_id === id) setNews({ ...news, ...told(event) });
  });
  const command: Command = { ...first, ...news, ...following.end.value, ...(news.late && news) };
  const mayRun = may("commands:execute");
  const name = machines.value?.get(command.machine_id)?.name ?? command.machine_id;

  const cancel = async () => {
    try {
      await remove(`/commands/${id}`);
      setNews({ ...news, cancel_requested: true });
      setProblem(null);
    } catch (refusal) {
      setProblem(refusal);
    }
  };

  return (
    <>
      <header class="row command-head">
        <h1>Command</h1>
        <div class="row push">
          {mayRun && !hasEnded(command) && (
            <button type="button" class="danger" disabled={command.cancel_requested} onClick={cancel}>
              {command.cancel_requested ? "Ending…" : "Cancel"}
            </button>
          )}
          {mayRun && <button type="button" onClick={() => go(draftOf(command))}>Run again</button>}
        </div>
      </header>
      <pre class="asked" tabIndex={0} aria-label="What was asked for">{command.command}</pre>
      <p class="row">
        <CopyButton text={command.command} label="Copy command" />
        <CopyButton text={asCli([name], command.command, asDraft(command).options)} label="Copy as CLI" />
        <CopyButton text={curl("POST", "/commands/async", { machine_id: command.machine_id, command: command.command, ...optionsOf(command) })} label="Copy as curl" />
        <CopyButton text={asPython([command.machine_id], command.command, optionsOf(command))} label="Copy as Python" />
      </p>
      <Problem error={problem} />
      <Facts command={command} />
      <h2 class="output-head">Output</h2>
      <CommandLog id={id} label="Output" following={following} isLive={isLive}>
        <Download id={id} stream="stdout">stdout{size(command.stdout_bytes)}</Download>
        {command.stderr_bytes > 0 && <Download id={id} stream="stderr">stderr{size(command.stderr_bytes)}</Download>}
      </CommandLog>
    </>
  );
}

const size = (count: number) => (count ? ` (${bytes(count)})` : "");

/** What an event says of a command. */
function told({ data }: HubEvent): Partial<CommandRecord> {
  const known = ["status", "exit_code", "duration", "started_at", "finished_at", "late"];
  return Object.fromEntries(Object.entries(data).filter(([name]) => known.includes(name)));
}

/** How it was asked for, as far as its record has it. */
function optionsOf({ cwd, user, timeout }: CommandRecord): Record<string, unknown> {
  return { ...(cwd && { cwd }), ...(user && { user }), ...(timeout && { timeout }) };
}
