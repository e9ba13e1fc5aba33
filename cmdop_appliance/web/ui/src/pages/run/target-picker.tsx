import { useState } from "preact/hooks";
import type { Machine } from "../../api/types";
import { counted } from "../../parts/format";
import { byName, tags } from "../../state/machines";
import { ALL, fitting, titled } from "./targets";

const OFFERED = 12; // tags
const NAMED = 40; // machines

/** Chips that say which machines are meant, and which those are. */
export function TargetPicker({ selectors, change, meant, queue }: {
  selectors: readonly string[];
  change: (selectors: string[]) => void;
  meant: readonly Machine[];
  queue: boolean;
}) {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState("");
  const machines = byName.value;
  const toggle = (selector: string) =>
    change(selectors.includes(selector) ? selectors.filter((each) => each !== selector) : [...selectors, selector]);
  const add = (entered: string) => {
    const selector = entered.trim();
    if (!selector) return;
    const found = fitting(selector, machines);
    if (!found.length) return setProblem(`No machine fits “${selector}”.`);
    const isOne = found.length === 1 && [found[0]!.name, found[0]!.hostname].includes(selector);
    const chosen = isOne ? found[0]!.id : selector;
    if (!selectors.includes(chosen)) change([...selectors, chosen]);
    setText("");
    setProblem("");
  };
  return (
    <section class="card" aria-labelledby="targets">
      <h2 id="targets">Machines</h2>
      <div class="row" role="group" aria-label="Which machines">
        <button type="button" class="small chip" aria-pressed={selectors.includes(ALL)} onClick={() => toggle(ALL)}>All</button>
        {tags.value.slice(0, OFFERED).map((tag) => (
          <button key={tag} type="button" class="small chip" aria-pressed={selectors.includes(`tag:${tag}`)} onClick={() => toggle(`tag:${tag}`)}>
            {tag}
          </button>
        ))}
        {selectors.filter((each) => each !== ALL && !tags.value.slice(0, OFFERED).some((tag) => each === `tag:${tag}`)).map((selector) => (
          <button key={selector} type="button" class="small chip" aria-pressed="true" title="Take it away" onClick={() => toggle(selector)}>
            {titled(selector, machines)} <span aria-hidden="true">✕</span>
          </button>
        ))}
        <span class="target-input">
          <input
            type="text"
            list="target-names"
            aria-label="Add machines by name, pattern or tag"
            aria-invalid={problem !== ""}
            placeholder="name, web-*, tag:db"
            autocomplete="off"
            spellcheck={false}
            value={text}
            onInput={(event) => {
              const value = event.currentTarget.value;
              setText(value);
              setProblem("");
              // chosen from the list, not typed
              if ((event as InputEvent).inputType === "insertReplacementText" || (event as InputEvent).inputType === undefined) add(value);
            }}
            onKeyDown={(event) => {
              if (event.key === "Enter" || event.key === ",") {
                event.preventDefault();
                add(text);
              } else if (event.key === "Backspace" && !text && selectors.length) toggle(selectors.at(-1)!);
            }}
            onBlur={() => add(text)}
          />
          <datalist id="target-names">
            {machines.map((machine) => <option key={machine.id} value={machine.name} />)}
            {tags.value.map((tag) => <option key={tag} value={`tag:${tag}`} />)}
          </datalist>
        </span>
      </div>
      {problem && <p class="wrong" role="alert">{problem}</p>}
      <Meant machines={meant} queue={queue} />
    </section>
  );
}

function Meant({ machines, queue }: { machines: readonly Machine[]; queue: boolean }) {
  const offline = machines.filter((machine) => machine.status === "offline").length;
  return (
    <>
      <p role="status" class="meant">
        {machines.length ? `→ ${counted(machines.length, "machine")}` : "No machine is chosen yet."}
        {offline > 0 && ` (${offline} offline will be ${queue ? "queued" : "skipped"})`}
      </p>
      {machines.length > 0 && (
        <p class="dim hosts">
          {machines.slice(0, NAMED).map((machine, index) => (
            <span key={machine.id} class={machine.status === "offline" ? "away" : ""}>
              {index > 0 && ", "}
              <a href={`/machines/${machine.id}`}>{machine.name}</a>
              {machine.status === "offline" && " (offline)"}
            </span>
          ))}
          {machines.length > NAMED && `, and ${machines.length - NAMED} more`}
        </p>
      )}
    </>
  );
}
