import { useState } from "preact/hooks";
import { patch, post } from "../../api/client";
import type { Webhook } from "../../api/types";
import { CopyLine } from "../../parts/copy";
import { Dialog } from "../../parts/dialog";
import { Field, reasonOf } from "../../parts/field";
import { useOnce } from "../../parts/once";
import { Problem } from "../../parts/problem";
import { toast } from "../../parts/toast";
import { FAMILIES, headersOf, PRESETS, SUGGESTED } from "./events";

/** Make a webhook, or change one. */
export function Editor({ from, close, done }: { from: Webhook | null; close: () => void; done: (id: string) => void }) {
  const [url, setUrl] = useState(from?.url ?? "");
  const [preset, setPreset] = useState(from?.preset ?? (from ? "" : "ntfy"));
  const [events, setEvents] = useState<string[]>(from?.events ?? SUGGESTED);
  const [description, setDescription] = useState(from?.description ?? "");
  const [headers, setHeaders] = useState("");
  const { isBusy, error, act } = useOnce();
  const [made, setMade] = useState<{ id: string; secret: string } | null>(null);
  const isAll = events.includes("*");
  const toggle = (name: string, isOn: boolean) => setEvents(isOn ? [...events, name] : events.filter((each) => each !== name));
  const save = () => {
    const body = { url, events, description, preset: preset || null, ...(headers && { headers: headersOf(headers) }) };
    return act(async (key) => {
      if (from) {
        await patch(`/webhooks/${from.id}`, body);
        toast("The webhook is saved");
        done(from.id);
      } else {
        const created = await post<{ id: string; secret: string }>("/webhooks", body, key);
        if (preset) done(created.id);
        else setMade(created);
      }
    });
  };
  if (made) {
    return (
      <Dialog title="Its secret">
        <p>The hub signs with it, your program verifies. It is shown only now.</p>
        <CopyLine text={made.secret} label="Secret" />
        <p><a href="/help/webhooks#verify" target="_blank">How to verify, in Python, Node and others</a></p>
        <button class="main" onClick={() => done(made.id)}>I saved it</button>
      </Dialog>
    );
  }
  const shown = PRESETS[preset] ?? PRESETS[""]!;
  return (
    <Dialog title={from ? "Change the webhook" : "New webhook"} close={close} wide>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void save();
        }}
      >
        <Problem error={error} />
        <Field label="Who is told">
          <select value={preset} onChange={(event) => setPreset(event.currentTarget.value)}>
            {Object.entries(PRESETS).map(([value, { name }]) => <option key={value} value={value}>{name}</option>)}
          </select>
        </Field>
        <Field label="URL" hint={shown.hint} error={reasonOf(error, "url")}>
          <input type="url" value={url} onInput={(event) => setUrl(event.currentTarget.value)} placeholder={shown.url} required />
        </Field>
        <Field label="Description" hint="By it you tell webhooks apart." error={reasonOf(error, "description")}>
          <input value={description} onInput={(event) => setDescription(event.currentTarget.value)} placeholder="my phone" />
        </Field>
        <fieldset>
          <legend>Of what</legend>
          <label class="row check">
            <input type="checkbox" checked={isAll} onChange={(event) => setEvents(event.currentTarget.checked ? ["*"] : SUGGESTED)} /> everything, also what later versions bring
          </label>
          {!isAll && Object.entries(FAMILIES).map(([family, kinds]) => (
            <div class="row" key={family} role="group" aria-label={family}>
              {kinds.map((kind) => {
                const name = `${family}.${kind}`;
                return (
                  <label key={name} class="row check">
                    <input type="checkbox" checked={events.includes(name)} onChange={(event) => toggle(name, event.currentTarget.checked)} /> {name}
                  </label>
                );
              })}
            </div>
          ))}
          {reasonOf(error, "events") && <small class="wrong" role="alert">{reasonOf(error, "events")}</small>}
        </fieldset>
        <details>
          <summary>Headers</summary>
          <Field
            label="Name: value, one per line"
            hint={from?.header_names.length ? `It has ${from.header_names.join(", ")}, whose values are not shown; what you write takes their place.` : undefined}
            error={reasonOf(error, "headers")}
          >
            <textarea rows={2} value={headers} onInput={(event) => setHeaders(event.currentTarget.value)} autocomplete="off" />
          </Field>
        </details>
        <p class="row">
          <button class="main" disabled={isBusy || !events.length} title={events.length ? "" : "Of nothing there is nothing to tell: choose events."}>{isBusy ? "Saving…" : "Save"}</button>
          <button type="button" onClick={close}>Cancel</button>
        </p>
      </form>
    </Dialog>
  );
}
