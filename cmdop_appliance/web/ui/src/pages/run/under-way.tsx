import { useState } from "preact/hooks";
import type { Command } from "../../api/types";
import { CommandLog } from "../../parts/log/command-log";
import { useFollowing } from "../../parts/log/following";
import { Problem } from "../../parts/problem";
import { Status } from "../../parts/status";
import { Ago } from "../../parts/time";
import { cancel } from "./batch";
import type { Named } from "./fold";

const AT_ONCE = 1; // outputs followed: a browser has few connections to one hub, for all its tabs

/** Commands that have not ended, each with what it writes now if one wants to see that. */
export function UnderWay({ commands }: { commands: readonly [Named, Command][] }) {
  const [open, setOpen] = useState<readonly string[]>(() => (commands.length <= AT_ONCE ? commands.map(([, { id }]) => id) : []));
  return (
    <ul class="under-way card" aria-label="Under way">
      {commands.map(([machine, command]) => (
        <li key={command.id}>
          <Entry
            machine={machine}
            command={command}
            isOpen={open.includes(command.id)}
            toggle={() =>
              setOpen(open.includes(command.id) ? open.filter((id) => id !== command.id) : [...open, command.id].slice(-AT_ONCE))}
          />
        </li>
      ))}
    </ul>
  );
}

function Entry({ machine, command, isOpen, toggle }: { machine: Named; command: Command; isOpen: boolean; toggle: () => void }) {
  const [problem, setProblem] = useState<unknown>(null);
  const isEnding = command.cancel_requested;
  return (
    <>
      <p class="row">
        <a href={`/commands/${command.id}`}>{machine.name}</a>
        <Status state={command.status} text={isEnding ? "ending" : command.status === "pending" ? "waiting" : "running"} />
        {command.started_at && <span class="dim">began <Ago at={command.started_at} /></span>}
        {command.stale_since && <span class="dim">not heard of since <Ago at={command.stale_since} /></span>}
        <button type="button" class="small push" aria-label={`Output of ${machine.name}`} aria-expanded={isOpen} onClick={toggle}>Output</button>
        <button
          type="button"
          class="small danger"
          aria-label={`Cancel on ${machine.name}`}
          disabled={isEnding}
          onClick={() => cancel(command).then(() => setProblem(null), setProblem)}
        >
          Cancel
        </button>
      </p>
      <Problem error={problem} />
      {isOpen && <Live machine={machine} command={command} />}
    </>
  );
}

function Live({ machine, command: { id } }: { machine: Named; command: Command }) {
  const following = useFollowing(id);
  return <CommandLog id={id} label={`Output of ${machine.name}`} following={following} isLive />;
}
