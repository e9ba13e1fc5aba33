import { useMemo } from "preact/hooks";
import { type Change, unified } from "../../parts/diff";
import { counted } from "../../parts/format";
import { LogText } from "../../parts/log/text";
import { LogView } from "../../parts/log/view";
import { Status } from "../../parts/status";
import { type Ended, type Group, outputOf } from "./fold";

const NAMED = 12; // machines
const FEW_LINES = 20; // need no tools to be read

/** What is the same for some machines; beside what is usual, only what differs. */
export function GroupView({ group, usual }: { group: Group; usual: Group | null }) {
  const { command, machines, said } = group;
  const log = useMemo(() => LogText.of(command?.stdout ?? "", command?.stderr), [group.key]);
  const changes = useMemo(() => (usual?.command && command ? difference(usual, group) : null), [group.key, usual?.key]);
  const hasOutput = command !== null && command.stdout_bytes + command.stderr_bytes > 0;
  const names = machines.map(({ name }) => name);
  const size = counted(machines.length, "machine");
  return (
    <section class="card result" aria-label={names.slice(0, NAMED).join(", ")}>
      <header class="row">
        <h3>{machines.length > 1 ? `${size} the same` : names[0]}</h3>
        <End group={group} />
        {command && machines.length === 1 && <a class="push" href={`/commands/${command.id}`}>Details</a>}
      </header>
      {machines.length > 1 && (
        <div class="dim hosts">
          <Names of={machines.slice(0, NAMED)} />
          {names.length > NAMED && (
            <details><summary>and {names.length - NAMED} more</summary><Names of={machines.slice(NAMED)} /></details>
          )}
        </div>
      )}
      {!command && <p class="wrong">{said}</p>}
      {changes && <Diff changes={changes} beside={usual!} />}
      {command?.started_at && !hasOutput && <p class="dim">{machines.length > 1 ? "They" : "It"} wrote nothing.</p>}
      {command && hasOutput && !changes && (
        <LogView log={log} label={`Output of ${names[0]}`} at={`/commands/${command.id}`} hasTools={log.lines.length > FEW_LINES} />
      )}
      {command && (command.stdout_truncated || command.stderr_truncated) && (
        <p class="dim">That is not all of it. <a href={`/commands/${command.id}`}>All of it</a></p>
      )}
    </section>
  );
}

/** Each is a link to what ran there. */
function Names({ of }: { of: readonly Ended[] }) {
  return (
    <>
      {of.map(({ id, name, commandId }, index) => (
        <span key={id}>{index > 0 && ", "}{commandId ? <a href={`/commands/${commandId}`}>{name}</a> : name}</span>
      ))}
    </>
  );
}

function End({ group: { command, said } }: { group: Group }) {
  if (!command) return <Status state="refused" text="not run" kind="bad" />;
  return <Status state={command.status} text={said || "exit 0"} />;
}

/** What differs from the usual output; null: the output itself says more, or as much. */
function difference(usual: Group, group: Group): Change[] | null {
  const [before, after] = [usual, group].map((each) => LogText.of(outputOf(each.command!)).copied());
  const changes = unified(`${before}\n`, `${after}\n`);
  return changes?.length && changes.length < after!.split("\n").length ? changes : null;
}

const SIGNS = { same: " ", less: "-", more: "+", place: "" };

function Diff({ changes, beside }: { changes: Change[]; beside: Group }) {
  return (
    <>
      <p class="dim">Beside that of the {counted(beside.machines.length, "machine")}:</p>
      <pre class="diff" tabIndex={0} aria-label="What differs">
        {changes.map(({ kind, text }) => <span class={kind}>{SIGNS[kind] + text}{"\n"}</span>)}
      </pre>
    </>
  );
}
