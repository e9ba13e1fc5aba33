import { useState } from "preact/hooks";
import { ApiError, post, remove } from "../../api/client";
import type { FileEntry } from "../../api/types";
import { Dialog } from "../../parts/dialog";
import { Field } from "../../parts/field";
import { useOnce } from "../../parts/once";
import { Problem } from "../../parts/problem";
import { toast } from "../../parts/toast";
import { above, below } from "./paths";

type Named = { kind: "mkdir" } | { kind: "move" | "copy"; entry: FileEntry };
export type Action = Named | { kind: "remove"; entry: FileEntry };

/** Ask what is needed for an action, and carry it out. */
export function ActionDialog({ action, machineId, directory, close, done }: {
  action: Action;
  machineId: string;
  directory: string;
  close: () => void;
  done: () => void;
}) {
  const base = `/machines/${machineId}/files`;
  const finish = (text: string) => {
    toast(text);
    close();
    done();
  };
  if (action.kind === "remove") return <Removal base={base} entry={action.entry} close={close} finish={finish} />;
  return <Naming action={action} base={base} directory={directory} close={close} finish={finish} />;
}

function Naming({ action, base, directory, close, finish }: {
  action: Named;
  base: string;
  directory: string;
  close: () => void;
  finish: (text: string) => void;
}) {
  const isNew = action.kind === "mkdir";
  const source = isNew ? null : action.entry;
  const [path, setPath] = useState(source ? source.path : below(directory, ""));
  const { isBusy, error, act } = useOnce();
  const carryOut = (overwrite = false) =>
    act(async (key) => {
      if (isNew) await post(`${base}/mkdir`, { path }, key);
      else {
        const from = source!.path_base64 ? { source_base64: source!.path_base64 } : { source: source!.path };
        await post(`${base}/${action.kind}`, { ...from, destination: path, overwrite }, key);
      }
      finish({ mkdir: "The directory is made", move: "It is moved", copy: "It is copied" }[action.kind]);
    });
  const isTaken = error instanceof ApiError && error.code === "file_exists" && !isNew;
  return (
    <Dialog title={{ mkdir: "New directory", move: `Move or rename ${source?.name}`, copy: `Copy ${source?.name}` }[action.kind]} close={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void carryOut();
        }}
      >
        <Problem error={error} />
        <Field label={isNew ? "Path" : "To"} hint={source && `In ${above(path)}`}>
          <input value={path} onInput={(event) => setPath(event.currentTarget.value)} required autofocus />
        </Field>
        <p class="row">
          <button class="main" disabled={isBusy}>{{ mkdir: "Make it", move: "Move it", copy: "Copy it" }[action.kind]}</button>
          {isTaken && <button type="button" class="danger" disabled={isBusy} onClick={() => carryOut(true)}>Replace what is there</button>}
        </p>
      </form>
    </Dialog>
  );
}

function Removal({ base, entry, close, finish }: { base: string; entry: FileEntry; close: () => void; finish: (text: string) => void }) {
  const [error, setError] = useState<unknown>(null);
  const at = entry.path_base64 ? { path_base64: entry.path_base64 } : { path: entry.path };
  const act = (recursive: boolean) => remove(base, { ...at, recursive }).then(() => finish(`${entry.name} is gone`), setError);
  const isFull = error instanceof ApiError && error.code === "directory_not_empty";
  return (
    <Dialog title={`Delete ${entry.name}?`} close={close}>
      <p><code>{entry.path}</code> goes for good: there is no bin to take it back from.</p>
      <Problem error={error} />
      <p class="row">
        {isFull ? <button class="danger" onClick={() => act(true)}>Delete it with all that is in it</button> : <button class="danger" onClick={() => act(false)}>Delete it</button>}
        <button onClick={close}>Cancel</button>
      </p>
    </Dialog>
  );
}
