import type { JSX } from "preact";
import { Field } from "../../parts/field";
import { DEFAULTS, type Options, type Problems } from "./options";

type Text = { [Name in keyof Options]: Options[Name] extends string ? Name : never }[keyof Options];

/** How it is to run; folded away, as hardly any run needs more than the defaults. */
export function OptionsForm({ options, change, problems }: {
  options: Options;
  change: (options: Options) => void;
  problems: Problems;
}) {
  const changed = Object.keys(DEFAULTS).filter((name) => options[name as keyof Options] !== DEFAULTS[name as keyof Options]).length;
  const input = (name: Text, label: string, placeholder: string, hint?: string): JSX.Element => (
    <Field label={label} hint={hint} error={problems[name]}>
      <input
        type="text"
        autocomplete="off"
        spellcheck={false}
        placeholder={placeholder}
        value={options[name]}
        onInput={(event) => change({ ...options, [name]: event.currentTarget.value })}
      />
    </Field>
  );
  const area = (name: Text, label: string, placeholder: string, hint?: string): JSX.Element => (
    <Field label={label} hint={hint} error={problems[name]}>
      <textarea
        rows={2}
        autocomplete="off"
        spellcheck={false}
        placeholder={placeholder}
        value={options[name]}
        onInput={(event) => change({ ...options, [name]: event.currentTarget.value })}
      />
    </Field>
  );
  const check = (name: "pty" | "queue", label: string) => (
    <label class="check">
      <input type="checkbox" checked={options[name]} onChange={(event) => change({ ...options, [name]: event.currentTarget.checked })} /> {label}
    </label>
  );
  return (
    <details class="options" open={Object.keys(problems).length > 0 || undefined}>
      <summary>Options{changed > 0 && <span class="dim"> ({changed} changed)</span>}</summary>
      <fieldset>
        <legend>On many machines</legend>
        {input("parallel", "At a time", "all", "A number, or a share such as 25%.")}
        {input("canary", "First on", "none", "So many must succeed before the others begin.")}
        {input("failAfter", "Stop after failures", "never", "What has not begun by then is skipped.")}
      </fieldset>
      <fieldset>
        <legend>How it runs</legend>
        {input("timeout", "Timeout", "1h", "What has not ended by then is ended: 30s, 5m, 1h, 1d.")}
        {input("cwd", "Directory", "home of the user")}
        {input("user", "User", "that of the agent")}
        {input("shell", "Shell", "/bin/sh -c")}
        {area("env", "Variables", "NAME=value", "One in each line.")}
        {area("stdin", "Standard input", "nothing")}
        {input("serialKey", "Serial key", "none", "Commands of a machine with the same key run one after another.")}
        {check("pty", "In a terminal (80 × 24)")}
      </fieldset>
      <fieldset>
        <legend>Machines that are away</legend>
        {check("queue", "Wait for machines that are offline or asleep")}
        {options.queue && input("queueTimeout", "For at most", "24h", "Such as 2h or 7d.")}
        {options.queue && input("supersedeKey", "Supersede key", "none", "Of waiting commands with the same key only the newest is kept.")}
      </fieldset>
    </details>
  );
}
