import { useEffect, useState } from "preact/hooks";
import { patch, post } from "../../api/client";
import type { Schedule } from "../../api/types";
import { Dialog } from "../../parts/dialog";
import { Field, reasonOf } from "../../parts/field";
import { useOnce } from "../../parts/once";
import { Problem } from "../../parts/problem";
import { tagsIn } from "../../parts/tags";
import { toast } from "../../parts/toast";
import { byName, loadMachines, tags as knownTags } from "../../state/machines";
import { linesOf, variablesOf } from "../../parts/variables";
import { RuleField } from "./rule-field";

/** What a form holds: text, as people type it. */
interface Draft {
  name: string;
  command: string;
  cron: string;
  timezone: string;
  where: "machines" | "tags";
  machines: string[];
  tags: string;
  minutes: string;
  cwd: string;
  user: string;
  env: string;
  overlap: Schedule["overlap"];
  misfire: Schedule["misfire"];
  onSuccess: boolean;
  onFailure: boolean;
}

function draftOf(from: Schedule | null): Draft {
  return {
    name: from?.name ?? "",
    command: from?.command ?? "",
    cron: from?.cron ?? "0 3 * * *",
    timezone: from?.timezone ?? Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC",
    where: from?.tags ? "tags" : "machines",
    machines: from?.machine_ids ?? (from?.machine_id ? [from.machine_id] : []),
    tags: from?.tags?.join(" ") ?? "",
    minutes: from?.timeout ? String(from.timeout / 60_000) : "",
    cwd: from?.cwd ?? "",
    user: from?.user ?? "",
    env: linesOf(from?.env ?? {}),
    overlap: from?.overlap ?? "skip",
    misfire: from?.misfire ?? "run_once",
    onSuccess: from?.notify.on_success ?? false,
    onFailure: from?.notify.on_failure ?? true,
  };
}

const OVERLAPS: [Schedule["overlap"], string][] = [
  ["skip", "skip the new run"], ["queue", "run it afterwards"], ["allow", "run both"], ["cancel_previous", "stop the old one"],
];

/** Make a schedule, or change one; `from` without `isNew`: which. */
export function Editor({ from, isNew, close, done }: {
  from: Schedule | null;
  isNew: boolean;
  close: () => void;
  done: (schedule: Schedule) => void;
}) {
  const [draft, setDraft] = useState(() => draftOf(from));
  const { isBusy, error, act } = useOnce();
  useEffect(() => void loadMachines(), []);
  const set = (part: Partial<Draft>) => setDraft((before) => ({ ...before, ...part }));
  const save = () => {
    const body = {
      name: draft.name,
      command: draft.command,
      cron: draft.cron,
      timezone: draft.timezone,
      ...(draft.where === "tags" ? { tags: tagsIn(draft.tags) }
        : draft.machines.length === 1 ? { machine_id: draft.machines[0] } : { machine_ids: draft.machines }),
      timeout: draft.minutes ? Math.round(Number(draft.minutes) * 60_000) : null,
      cwd: draft.cwd || null,
      user: draft.user || null,
      env: variablesOf(draft.env),
      ...(isNew && from && { description: from.description, misfire_window: from.misfire_window }),
      overlap: draft.overlap,
      misfire: draft.misfire,
      notify: { on_success: draft.onSuccess, on_failure: draft.onFailure },
    };
    return act(async (key) => {
      const saved = isNew ? await post<Schedule>("/schedules", body, key) : await patch<Schedule>(`/schedules/${from!.id}`, body);
      toast(`${saved.name} is saved`);
      done(saved);
    });
  };
  const isNowhere = draft.where === "machines" && !draft.machines.length;
  const reason = (name: string) => reasonOf(error, name);
  return (
    <Dialog title={isNew ? "New schedule" : `Change ${from!.name}`} close={close} wide>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void save();
        }}
      >
        <Problem error={error} />
        <Field label="Name" error={reason("name")}>
          <input value={draft.name} onInput={(event) => set({ name: event.currentTarget.value })} required />
        </Field>
        <Field label="Command" error={reason("command")}>
          <textarea rows={3} value={draft.command} onInput={(event) => set({ command: event.currentTarget.value })} required />
        </Field>
        <RuleField cron={draft.cron} timezone={draft.timezone} change={set} error={error} />
        <fieldset>
          <legend>Where</legend>
          <label class="row check">
            <input type="radio" name="where" checked={draft.where === "machines"} onChange={() => set({ where: "machines" })} /> on these machines
          </label>
          {draft.where === "machines" && (
            <div class="choices" role="group" aria-label="Machines">
              {byName.value.map((machine) => (
                <label key={machine.id} class="row check">
                  <input
                    type="checkbox"
                    checked={draft.machines.includes(machine.id)}
                    onChange={(event) => set({ machines: event.currentTarget.checked ? [...draft.machines, machine.id] : draft.machines.filter((each) => each !== machine.id) })}
                  />
                  {machine.name} {machine.status === "offline" && <span class="dim">offline</span>}
                </label>
              ))}
            </div>
          )}
          <label class="row check">
            <input type="radio" name="where" checked={draft.where === "tags"} onChange={() => set({ where: "tags" })} /> on all machines that carry these tags, also later ones
          </label>
          {draft.where === "tags" && (
            <input list="known-tags" aria-label="Tags" value={draft.tags} onInput={(event) => set({ tags: event.currentTarget.value })} placeholder="web eu" required />
          )}
          <datalist id="known-tags">{knownTags.value.map((tag) => <option key={tag} value={tag} />)}</datalist>
          {["machine_id", "machine_ids", "tags"].map((name) => reason(name) && <small class="wrong" key={name} role="alert">{reason(name)}</small>)}
        </fieldset>
        <fieldset>
          <legend>Tell by an event (webhooks hear it)</legend>
          <label class="row check"><input type="checkbox" checked={draft.onFailure} onChange={(event) => set({ onFailure: event.currentTarget.checked })} /> when it fails</label>
          <label class="row check"><input type="checkbox" checked={draft.onSuccess} onChange={(event) => set({ onSuccess: event.currentTarget.checked })} /> when it succeeds</label>
        </fieldset>
        <details>
          <summary>More</summary>
          <Field label="Stop it after minutes" hint="Without this a command that hangs is in the way of the next run." error={reason("timeout")}>
            <input type="number" min="0.1" step="any" value={draft.minutes} onInput={(event) => set({ minutes: event.currentTarget.value })} placeholder="never" />
          </Field>
          <Field label="When the run before has not ended">
            <select value={draft.overlap} onChange={(event) => set({ overlap: event.currentTarget.value as Schedule["overlap"] })}>
              {OVERLAPS.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
            </select>
          </Field>
          <Field label="When the hub or the machine was away">
            <select value={draft.misfire} onChange={(event) => set({ misfire: event.currentTarget.value as Schedule["misfire"] })}>
              <option value="run_once">run once afterwards</option>
              <option value="skip">skip what was missed</option>
            </select>
          </Field>
          <Field label="Directory" error={reason("cwd")}>
            <input value={draft.cwd} onInput={(event) => set({ cwd: event.currentTarget.value })} placeholder="the user's home" />
          </Field>
          <Field label="User" error={reason("user")}>
            <input value={draft.user} onInput={(event) => set({ user: event.currentTarget.value })} placeholder="whom the agent runs as" />
          </Field>
          <Field label="Variables" hint="One NAME=VALUE per line." error={reason("env")}>
            <textarea rows={2} value={draft.env} onInput={(event) => set({ env: event.currentTarget.value })} />
          </Field>
        </details>
        <p class="row">
          <button class="main" disabled={isBusy || isNowhere} title={isNowhere ? "Choose a machine first." : ""}>{isBusy ? "Saving…" : "Save"}</button>
          <button type="button" onClick={close}>Cancel</button>
        </p>
      </form>
    </Dialog>
  );
}
