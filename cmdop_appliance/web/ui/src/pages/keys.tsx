import { useState } from "preact/hooks";
import { post, remove } from "../api/client";
import type { Key } from "../api/types";
import { CopyLine } from "../parts/copy";
import { Dialog } from "../parts/dialog";
import { Field, reasonOf } from "../parts/field";
import { More, useListing } from "../parts/listing";
import { useOnce } from "../parts/once";
import { Problem } from "../parts/problem";
import { Table } from "../parts/table";
import { tagsIn } from "../parts/tags";
import { Ago } from "../parts/time";
import { toast } from "../parts/toast";
import { me } from "../state/me";
import { query, setQuery } from "../state/routing";

const SCOPES: [string, string][] = [
  ["machines:read", "see machines and their load"],
  ["machines:write", "add, rename, tag and remove machines"],
  ["sessions:read", "see commands, output, terminals"],
  ["sessions:write", "attach to machines"],
  ["commands:execute", "run commands, open terminals"],
  ["files:read", "read files"],
  ["files:write", "write and remove files"],
  ["schedules:read", "see schedules"],
  ["schedules:write", "make schedules (they run commands)"],
  ["webhooks:manage", "make webhooks (they hear every event)"],
  ["metrics:read", "read /metrics"],
  ["admin", "everything, on every machine"],
];

/** API keys: for programs, and for people. */
export default function Keys() {
  const [revoked, setRevoked] = useState<Key | null>(null);
  const found = useListing<Key>("/api-keys");
  return (
    <>
      <header class="row">
        <h1>API keys</h1>
        <button class="main push" onClick={() => setQuery({ new: "1" })}>New key</button>
      </header>
      <Problem error={found.error} retry={found.reload} />
      {found.rows.length > 0 && (
        <Table
          label="API keys"
          rows={found.rows}
          id={(key) => key.id}
          columns={[
            { name: "Name", show: (key) => key.name },
            { name: "Begins with", show: (key) => <code>{key.key_prefix}…</code> },
            { name: "May", show: (key) => <span class="row tags">{key.scopes.map((scope) => <span class={`tag ${scope === "admin" ? "bad" : ""}`} key={scope}>{scope}</span>)}</span> },
            { name: "Machines", show: (key) => (key.tags.length ? key.tags.map((tag) => `#${tag}`).join(" ") : "all") },
            { name: "Last used", show: (key) => <><Ago at={key.last_used_at} /> {key.last_used_ip && <span class="dim">from {key.last_used_ip}</span>}</> },
            { name: "Expires", show: (key) => <Ago at={key.expires_at} /> },
            { name: "", show: (key) => <button class="small danger" onClick={() => setRevoked(key)}>Revoke</button> },
          ]}
        />
      )}
      <More of={found} />
      {query.value.get("new") !== null && <NewKey close={() => setQuery({ new: null })} done={found.reload} />}
      {revoked && <Revoke of={revoked} close={() => setRevoked(null)} done={found.reload} />}
    </>
  );
}

function Revoke({ of, close, done }: { of: Key; close: () => void; done: () => void }) {
  const [error, setError] = useState<unknown>(null);
  const isOwn = me.value?.id === of.id;
  const revoke = async () => {
    try {
      await remove(`/api-keys/${of.id}`);
      toast(`${of.name} is revoked`);
      close();
      done();
    } catch (problem) {
      setError(problem);
    }
  };
  return (
    <Dialog title={`Revoke ${of.name}?`} close={close}>
      <p>Whoever uses it is cut off within a second, browsers that are signed in by it too. It cannot be undone.</p>
      {isOwn && <p class="wrong">It is the key that you are signed in by.</p>}
      <Problem error={error} />
      <p class="row">
        <button class="danger" onClick={revoke}>Revoke it</button>
        <button onClick={close}>Cancel</button>
      </p>
    </Dialog>
  );
}

function NewKey({ close, done }: { close: () => void; done: () => void }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<string[]>(["machines:read", "sessions:read"]);
  const [days, setDays] = useState("");
  const [tags, setTags] = useState("");
  const { isBusy, error, act } = useOnce();
  const [secret, setSecret] = useState("");
  const make = () =>
    act(async (key) => {
      const body = {
        name,
        scopes,
        ...(days && { expires_in_days: Number(days) }),
        ...(tags && { tags: tagsIn(tags) }),
      };
      const made = await post<{ key: string }>("/api-keys", body, key);
      setSecret(made.key);
      done();
    });
  if (secret) {
    return (
      <Dialog title={`The key ${name}`}>
        <p>It is shown only now: the hub keeps no more than a hash of it.</p>
        <CopyLine text={secret} label="API key" />
        <p>
          <button class="main" onClick={close}>I saved it</button>
        </p>
      </Dialog>
    );
  }
  return (
    <Dialog title="New key" close={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void make();
        }}
      >
        <Problem error={error} />
        <Field label="Name" hint="What it is for: it stands in the audit log." error={reasonOf(error, "name")}>
          <input value={name} onInput={(event) => setName(event.currentTarget.value)} required />
        </Field>
        <fieldset>
          <legend>It may</legend>
          {SCOPES.map(([scope, what]) => (
            <label key={scope} class="row check">
              <input
                type="checkbox"
                checked={scopes.includes(scope)}
                onChange={(event) => setScopes(event.currentTarget.checked ? [...scopes, scope] : scopes.filter((each) => each !== scope))}
              />
              <code>{scope}</code> <span class="dim">{what}</span>
            </label>
          ))}
          {reasonOf(error, "scopes") && <small class="wrong">{reasonOf(error, "scopes")}</small>}
        </fieldset>
        <Field label="Only machines with all these tags" error={reasonOf(error, "tags")}>
          <input value={tags} onInput={(event) => setTags(event.currentTarget.value)} placeholder="all machines" />
        </Field>
        <Field label="Expires after days" error={reasonOf(error, "expires_in_days")}>
          <input type="number" min="1" max="36500" value={days} onInput={(event) => setDays(event.currentTarget.value)} placeholder="never" />
        </Field>
        <button class="main" disabled={isBusy || !scopes.length} title={scopes.length ? "" : "A key without a scope may do nothing: choose one."}>Make the key</button>
      </form>
    </Dialog>
  );
}
