import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { call } from "../../api/client";
import type { Command, CommandStatus, Id } from "../../api/types";
import { Status } from "../../parts/status";
import { counted } from "../../parts/format";
import { clicked, useOnce } from "../../parts/once";
import { Problem } from "../../parts/problem";
import { toast } from "../../parts/toast";
import { collate, machines } from "../../state/machines";
import { may } from "../../state/me";
import { hasEnded } from "../../parts/ends";
import { cancelAll, type Results } from "./batch";
import { fold, isCommand, type Named, type Result, saidOf } from "./fold";
import { GroupView } from "./group";
import { UnderWay } from "./under-way";

const SHOWN = 20; // groups

/** What came of a command on many machines. */
export function ResultsView({ id, results, again, opened, isNew }: {
  /** null: nothing was recorded. */
  id: Id | null;
  results: Results;
  /** Run the same on these. */
  again: (machineIds: Id[]) => void;
  /** Another batch goes on with this one. */
  opened: (id: Id) => void;
  /** It was started here, and now: it is what one wants to see. */
  isNew: boolean;
}) {
  const head = useRef<HTMLElement>(null);
  useEffect(() => {
    if (isNew) head.current!.scrollIntoView({ block: "start" });
  }, []);
  const [isFailedOnly, setFailedOnly] = useState(false);
  const [shown, setShown] = useState(SHOWN);
  const [problem, setProblem] = useState<unknown>(null);
  const known = machines.value;
  const named = useMemo(
    () => [...results].map(([machine, result]): [Named, Result] => [{ id: machine, name: known?.get(machine)?.name ?? machine }, result]),
    [results, known],
  );
  const open = named.filter((entry): entry is [Named, Command] => isCommand(entry[1]) && !hasEnded(entry[1]));
  const ended = named.filter(([, result]) => !isCommand(result) || hasEnded(result));
  const groups = useMemo(() => fold(ended, collate), [named]);
  const usual = groups[0] && groups[0].machines.length > 1 ? groups[0] : null;
  const having = (status: CommandStatus) => named.filter(([, result]) => isCommand(result) && result.status === status).length;
  const skipped = having("skipped");
  const failed = ended.filter(([, result]) => saidOf(result) !== "" && !(isCommand(result) && result.status === "skipped"));
  const command = named.map(([, result]) => result).find(isCommand)?.command;
  const wanted = groups.filter((group) => !isFailedOnly || group.said !== "");
  const act = (doing: Promise<unknown>) => void doing.then(() => setProblem(null), setProblem);

  const resuming = useOnce();
  const resume = () =>
    resuming.act(async (key) => {
      const { data } = await call<Record<Id, Result>>("POST", `/commands/batch/${id}/resume`, { query: { wait: false }, body: {}, key });
      const next = Object.values(data).find(isCommand)?.batch_id;
      if (next) opened(next);
    });

  return (
    <section class="results" aria-labelledby="results">
      <header class="row" ref={head}>
        <h2 id="results">Results</h2>
        <p role="status" class="row">
          <Count count={having("completed")} state="completed" what="ok" />
          <Count count={failed.length - having("cancelled")} state="failed" what="failed" />
          <Count count={having("cancelled")} state="cancelled" what="cancelled" />
          <Count count={skipped} state="skipped" what="skipped" />
          <Count count={open.filter(([, each]) => each.started_at).length} state="running" what="running" />
          <Count count={open.filter(([, each]) => !each.started_at).length} state="pending" what="waiting" />
        </p>
        {having("completed") > 0 && having("completed") < ended.length && (
          <label class="check push">
            <input type="checkbox" checked={isFailedOnly} onChange={(event) => setFailedOnly(event.currentTarget.checked)} /> Failed only
          </label>
        )}
      </header>
      {command && <pre class="asked" tabIndex={0} aria-label="The command that ran">{command}</pre>}
      {may("commands:execute") && (
        <p class="row">
          {open.length > 0 && (
            <button type="button" class="danger" onClick={() => act(cancelAll(open.map(([, each]) => each)).then(() => toast("Cancelled")))}>
              Cancel all
            </button>
          )}
          {failed.length > 0 && (
            <button type="button" onClick={clicked(() => again(failed.map(([machine]) => machine.id)))}>
              Run again on the {failed.length} that failed
            </button>
          )}
          {skipped > 0 && open.length === 0 && (
            <button type="button" disabled={resuming.isBusy} onClick={clicked(resume)}>Go on with the {skipped} skipped</button>
          )}
        </p>
      )}
      <Problem error={problem ?? resuming.error} />
      {open.length > 0 && <UnderWay commands={open} />}
      {wanted.slice(0, shown).map((group) => <GroupView key={group.key} group={group} usual={group === usual ? null : usual} />)}
      {wanted.length > shown && (
        <p>
          Showing {shown} of {counted(wanted.length, "different result")}{" "}
          <button type="button" class="small" onClick={() => setShown(shown + SHOWN)}>More</button>
        </p>
      )}
    </section>
  );
}

function Count({ count, state, what }: { count: number; state: string; what: string }) {
  return count > 0 ? <Status state={state} text={`${count} ${what}`} /> : null;
}
