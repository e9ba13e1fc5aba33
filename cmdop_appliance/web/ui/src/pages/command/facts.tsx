import type { ComponentChildren } from "preact";
import type { CommandRecord } from "../../api/types";
import { CommandState, MachineLink } from "../../parts/command";
import { meaningOf } from "../../parts/ends";
import { duration } from "../../parts/format";
import { Ago, now } from "../../parts/time";
import { clock } from "../../parts/when";

/** What is known of a command, but for its output. */
export function Facts({ command }: { command: CommandRecord }) {
  const { started_at: started, finished_at: finished, batch_id: batch, schedule_id: schedule } = command;
  const took = command.duration ?? (started && !finished ? Math.max(0, now.value - Date.parse(started)) : null);
  return (
    <section class="card" aria-label="Facts">
      <p class="end">
        <CommandState command={command} /> <span class="dim">{meaningOf(command)}</span>
      </p>
      {command.stale_since && !finished && (
        <p class="end">Its machine has not been heard of since <Ago at={command.stale_since} />; what it does meanwhile comes when it is back.</p>
      )}
      {command.late && <p class="dim">It was lost while its machine was silent; that has returned, and told how it ended.</p>}
      {command.unknown_to_hub && <p class="dim">Only its machine knew of it: this hub was restored from an older backup.</p>}
      <dl class="command-facts">
        <Fact name="Machine"><MachineLink id={command.machine_id} /></Fact>
        <Fact name="Asked by">{command.user_email}</Fact>
        <Fact name="Asked"><Time at={command.created_at} /></Fact>
        <Fact name="Began">{started && <Time at={started} />}</Fact>
        <Fact name="Ended">{finished && <Time at={finished} />}</Fact>
        <Fact name="Exit code">{command.exit_code === null ? null : String(command.exit_code)}</Fact>
        <Fact name="Took">{took !== null && duration(finished ? took : Math.floor(took / 1000) * 1000)}</Fact>
        <Fact name="User">{command.user}</Fact>
        <Fact name="Directory">{command.cwd && <code>{command.cwd}</code>}</Fact>
        <Fact name="Timeout">{command.timeout && duration(command.timeout)}</Fact>
        <Fact name="Batch">{batch && <a href={`/run?batch=${batch}`}>{batch}</a>}</Fact>
        <Fact name="Schedule">{schedule && <a href={`/schedules/${schedule}`}>{schedule}</a>}</Fact>
      </dl>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  if (!children) return null;
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

function Time({ at }: { at: string }) {
  return <>{clock(Date.parse(at))} <span class="dim">(<Ago at={at} />)</span></>;
}
