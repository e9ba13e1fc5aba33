import { useEffect, useRef, useState } from "preact/hooks";
import { call, newKey } from "../api/client";
import type { Id, Machine } from "../api/types";
import { copy } from "../parts/copy";
import { Empty } from "../parts/empty";
import { counted } from "../parts/format";
import { clicked, isUnanswered, told } from "../parts/once";
import { Problem } from "../parts/problem";
import { asPython } from "../parts/python";
import { curl } from "../parts/shell";
import { byName, loadMachines, machines, machinesProblem } from "../state/machines";
import { may } from "../state/me";
import { go, query, setQuery } from "../state/routing";
import { type Attempt, Attempts, type Body } from "./run/attempts";
import { useBatch } from "./run/batch";
import { CommandInput } from "./run/command-input";
import { Confirm } from "./run/confirm";
import { asDraft, takeDraft } from "./run/draft";
import { isCommand, type Named, type Result } from "./run/fold";
import { asCli, DEFAULTS, read } from "./run/options";
import { OptionsForm } from "./run/options-form";
import { ResultsView } from "./run/results";
import { askedFor } from "./run/risks";
import { TargetPicker } from "./run/target-picker";
import { allFitting, readSelectors, writeSelectors } from "./run/targets";

const MOST = 1000; // machines in one batch

const attempts = new Attempts();

interface Asking {
  attempt: Attempt;
  machines: readonly Named[];
  /** It was sent before, and not answered. */
  isLost: boolean;
}

/** One command on any number of machines, and what they said. */
export default function Run() {
  const batchId = query.value.get("batch");
  const batch = useBatch(batchId);
  const [form, setForm] = useState(() => takeDraft() ?? { command: query.value.get("command") ?? "", options: DEFAULTS });
  const [refused, setRefused] = useState<Map<Id, Result> | null>(null);
  const [asking, setAsking] = useState<Asking | null>(null);
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const sent = useRef<Attempt | null>(null);
  /** The batch that was begun here; id null: all were refused. body null: others know of it. */
  const opened = useRef<{ id: Id | null; body: Body | null } | null>(null);

  useEffect(() => {
    void loadMachines();
    setQuery({ command: null }); // an address is no place for it
  }, []);
  const first = [...(batch.results?.values() ?? [])].find(isCommand);
  useEffect(() => {
    if (!first || form.command) return;
    setForm(asDraft(first)); // a reload, or somebody's link
    if (!readSelectors(query.value).length) setQuery(writeSelectors([...batch.results!.keys()]));
  }, [first?.batch_id]);

  const lacks = ["commands:execute", "machines:read"].filter((scope) => !may(scope));
  const selectors = readSelectors(query.value);
  const [only, ...others] = byName.value;
  useEffect(() => {
    if (only && !others.length && !selectors.length && !batchId) setQuery(writeSelectors([only.id]));
  }, [byName.value.length]);
  const meant = allFitting(selectors, byName.value);
  const { body, problems } = read(form.options);
  const targets = form.options.queue ? meant : meant.filter((machine) => machine.status === "online");
  const whyNot = reason(meant, targets, form.command, Object.keys(problems).length > 0);

  const start = async (attempt: Attempt) => {
    setAsking(null);
    setBusy(true);
    setProblem(null);
    setRefused(null);
    sent.current = attempt;
    attempts.begin(attempt);
    try {
      const { data } = await call<Record<Id, Result>>("POST", "/commands/batch", { query: { wait: false }, ...attempt });
      attempts.end(attempt.body.command);
      const id = Object.values(data).find(isCommand)?.batch_id;
      if (id) open(id, attempt.body);
      else {
        opened.current = { id: null, body: attempt.body };
        setQuery({ batch: null });
        setRefused(new Map(Object.entries(data)));
      }
    } catch (error) {
      if (!isUnanswered(error)) attempts.end(attempt.body.command);
      setProblem(told(error));
    }
    setBusy(false);
  };
  const open = (id: Id, sentBody: Body | null) => {
    opened.current = { id, body: sentBody };
    const parts = Object.entries({ ...writeSelectors(selectors), batch: id }).filter(([, value]) => value);
    go(`/run?${new URLSearchParams(parts)}`);
  };
  const asked: Body = { ...body, command: form.command, machine_ids: targets.map(({ id }) => id) };
  const run = (wanted: Body) => {
    const before = attempts.of(wanted.command);
    const isSame = before && JSON.stringify(before.body) === JSON.stringify(wanted);
    const attempt = before ?? { key: newKey(), body: wanted };
    const ids = attempt.body.machine_ids;
    const isLost = before !== undefined && !isSame;
    if (!isLost && askedFor(wanted.command, ids.length) === "nothing") void start(attempt);
    else setAsking({ attempt, machines: ids.map((id) => machines.value?.get(id) ?? { id, name: id }), isLost });
  };
  const runForm = () => {
    if (!whyNot && !isBusy) run(asked);
  };
  const begun = opened.current?.id === batchId ? opened.current : null;
  const again = (ids: Id[]) => {
    const recorded = first && { ...read(asDraft(first).options).body, command: first.command };
    run({ ...(begun?.body ?? recorded ?? asked), machine_ids: ids.filter((id) => machines.value?.has(id)) });
  };
  const results = refused ?? batch.results;

  return (
    <>
      <h1>Run</h1>
      <Problem error={machinesProblem.value} retry={() => void loadMachines()} />
      {machines.value?.size === 0 && (
        <Empty title="There is no machine yet">
          <p>Commands run on machines that have joined this hub.</p>
          <a class="button main" href="/?add=1">Add a machine</a>
        </Empty>
      )}
      {!lacks.length
        ? (
          <div class="run-form">
            <TargetPicker
              selectors={selectors}
              change={(next) => setQuery(writeSelectors(next))}
              meant={meant}
              queue={form.options.queue}
            />
            <CommandInput isAwaited={meant.length > 0 && !batchId} text={form.command} change={(command) => setForm({ ...form, command })} run={runForm} />
            <OptionsForm options={form.options} change={(options) => setForm({ ...form, options })} problems={problems} />
            <p class="row">
              <button class="main" disabled={isBusy || whyNot !== ""} title={whyNot} onClick={clicked(runForm)}>
                {isBusy ? "Starting…" : targets.length ? `Run on ${counted(targets.length, "machine")}` : "Run"}
              </button>
              <kbd class="dim" aria-hidden="true">Ctrl ⏎</kbd>
              {whyNot && form.command && <span class="dim">{whyNot}</span>}
              {!whyNot && (
                <>
                  <button type="button" class="small push" onClick={() => copy(asCli(named(selectors), form.command, form.options))}>Copy as CLI</button>
                  <button
                    type="button"
                    class="small"
                    onClick={() => copy(curl("POST", "/commands/batch", asked))}
                  >
                    Copy as curl
                  </button>
                  <button type="button" class="small" onClick={() => copy(asPython(asked.machine_ids, form.command, body))}>Copy as Python</button>
                </>
              )}
            </p>
          </div>
        )
        : (
          <Empty title="This key runs nothing here">
            <p>It lacks {lacks.map((scope, index) => <>{index > 0 && " and "}<code>{scope}</code></>)}; results of others that it may see are shown here by their links.</p>
          </Empty>
        )}
      <Problem error={problem} retry={isUnanswered(problem) ? () => void start(sent.current!) : undefined} />
      <Problem error={refused ? null : batch.error} retry={batch.refresh} />
      {results && <ResultsView key={batchId} id={refused ? null : batchId} results={results} again={again} opened={(id) => open(id, begun?.body ?? null)} isNew={begun !== null} />}
      {asking && (
        <Confirm
          machines={asking.machines}
          command={asking.attempt.body.command}
          asks={!asking.isLost && askedFor(asking.attempt.body.command, asking.machines.length) === "count" ? "count" : "yes"}
          close={() => setAsking(null)}
          run={() => void start(asking.attempt)}
          forget={asking.isLost ? () => { attempts.end(asking.attempt.body.command); setAsking(null); } : undefined}
        />
      )}
    </>
  );
}

/** For the command line, which knows machines by name. */
const named = (selectors: readonly string[]) => selectors.map((selector) => machines.value?.get(selector)?.name ?? selector);

/** Why it cannot be run; "": it can. */
function reason(meant: readonly Machine[], targets: readonly Machine[], command: string, hasProblems: boolean): string {
  if (!meant.length) return "Choose machines first.";
  if (!command.trim()) return "There is no command yet.";
  if (hasProblems) return "One of the options is not right.";
  if (!targets.length) return "None of them is connected. Under Options, let it wait for them.";
  if (targets.length > MOST) return `A batch has at most ${MOST} machines.`;
  return "";
}
