import { useEffect, useState } from "preact/hooks";
import { post } from "../../api/client";
import type { Preview } from "../../api/types";
import { Field, reasonOf } from "../../parts/field";
import { clock } from "../../parts/when";
import { choiceOf, type Choice, cronOf, type Every, FIELDS, FIRST } from "./rules";

const KINDS: [Every | "fields", string][] = [
  ["minutes", "Every few minutes"], ["hour", "Every hour"], ["day", "Every day"],
  ["week", "On days of the week"], ["month", "Once a month"], ["fields", "Cron"],
];
const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const WAIT_MS = 250;
const SHOWN = 5;

/** A rule: chosen from the common ones or written as cron, with what the hub makes of it. */
export function RuleField({ cron, timezone, change, error }: {
  cron: string;
  timezone: string;
  change: (to: { cron?: string; timezone?: string }) => void;
  error: unknown;
}) {
  const [kind, setKind] = useState<Every | "fields">(choiceOf(cron)?.every ?? "fields");
  const choice = choiceOf(cron) ?? FIRST;
  const set = (part: Partial<Choice>) => change({ cron: cronOf({ ...choice, ...part }) });
  return (
    <fieldset>
      <legend>When</legend>
      <div class="row">
        <select
          aria-label="How often"
          value={kind}
          onChange={(event) => {
            const every = event.currentTarget.value as Every | "fields";
            setKind(every);
            if (every !== "fields") change({ cron: cronOf({ ...choice, every }) });
          }}
        >
          {KINDS.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
        </select>
        {kind === "minutes" && (
          <label class="row">every <input type="number" min="1" max="59" value={choice.minutes} onInput={(event) => set({ minutes: Math.min(59, Math.max(1, event.currentTarget.valueAsNumber || 1)) })} /> min</label>
        )}
        {kind === "hour" && (
          <label class="row">at minute <input type="number" min="0" max="59" value={Number(choice.at.slice(3))} onInput={(event) => set({ at: `00:${Math.min(59, event.currentTarget.valueAsNumber || 0)}` })} /></label>
        )}
        {kind === "month" && (
          <label class="row">on day <input type="number" min="1" max="31" value={choice.day} onInput={(event) => set({ day: Math.min(31, Math.max(1, event.currentTarget.valueAsNumber || 1)) })} /></label>
        )}
        {["day", "week", "month"].includes(kind) && (
          <label class="row">at <input type="time" value={choice.at} onInput={(event) => event.currentTarget.value && set({ at: event.currentTarget.value })} /></label>
        )}
      </div>
      {kind === "week" && (
        <div class="row" role="group" aria-label="Days">
          {DAYS.map((name, day) => (
            <label key={name} class="row check">
              <input
                type="checkbox"
                checked={choice.days.includes(day)}
                onChange={(event) => {
                  const days = event.currentTarget.checked ? [...choice.days, day] : choice.days.filter((each) => each !== day);
                  if (days.length) set({ days });
                }}
              />
              {name}
            </label>
          ))}
        </div>
      )}
      {kind === "fields" && (
        <Field label="Cron" hint={`Five fields: ${FIELDS.join(", ")}; or @daily and the like.`}>
          <input class="mono" value={cron} onInput={(event) => change({ cron: event.currentTarget.value })} required />
        </Field>
      )}
      <Field label="Time zone" error={reasonOf(error, "timezone")}>
        <input list="zones" value={timezone} onInput={(event) => change({ timezone: event.currentTarget.value })} required />
        <datalist id="zones">{zones().map((zone) => <option key={zone} value={zone} />)}</datalist>
      </Field>
      <Shown cron={cron} timezone={timezone} />
    </fieldset>
  );
}

/** What the hub makes of a rule: in words, and its next instants. */
export function Shown({ cron, timezone }: { cron: string; timezone: string }) {
  const [preview, setPreview] = useState<Preview | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let isOld = false;
    const timer = setTimeout(() => {
      post<Preview>("/schedules/preview", { cron, timezone, count: SHOWN }).then(
        (found) => {
          if (isOld) return;
          setPreview(found);
          setError(null);
        },
        (problem: unknown) => !isOld && setError(problem),
      );
    }, WAIT_MS);
    return () => {
      isOld = true;
      clearTimeout(timer);
    };
  }, [cron, timezone]);
  if (error) {
    return <p class="wrong" role="alert">{reasonOf(error, "cron") || reasonOf(error, "timezone") || String(error)}</p>;
  }
  if (!preview) return null;
  return (
    <div aria-live="polite">
      <p><b>{preview.description}</b></p>
      <table aria-label="Next runs">
        <thead><tr><th scope="col">Here</th><th scope="col">{timezone}</th><th scope="col">Note</th></tr></thead>
        <tbody>
          {preview.next_runs.map((instant) => (
            <tr key={instant.utc}>
              <td data-label="Here">{clock(Date.parse(instant.utc))}</td>
              <td data-label={timezone}>{instant.local.slice(0, 16).replace("T", " ")}</td>
              <td data-label="Note" class={instant.note ? "wait" : ""}>{instant.note ?? "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function zones(): string[] {
  return ["UTC", ...((Intl as { supportedValuesOf?: (key: string) => string[] }).supportedValuesOf?.("timeZone") ?? [])];
}
