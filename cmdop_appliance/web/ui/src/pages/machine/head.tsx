import { useState } from "preact/hooks";
import { patch, remove } from "../../api/client";
import type { MachineDetail } from "../../api/types";
import { Dialog } from "../../parts/dialog";
import { Field, reasonOf } from "../../parts/field";
import { MachineState } from "../../parts/machine";
import { Problem } from "../../parts/problem";
import { draftFor } from "../run/draft";
import { tagsIn } from "../../parts/tags";
import { toast } from "../../parts/toast";
import { may } from "../../state/me";
import { go } from "../../state/routing";

type Props = { machine: MachineDetail };

/** Name, state, tags, and what can be done. */
export function Head({ machine }: Props) {
  const [open, setOpen] = useState<"edit" | "remove" | null>(null);
  const close = () => setOpen(null);
  return (
    <header class="machine-head">
      <div class="row">
        <h1>{machine.name}</h1>
        <span role="status"><MachineState machine={machine} /></span>
        {machine.tags.map((tag) => <a key={tag} class="tag" href={`/?q=${encodeURIComponent(`tag:${tag}`)}`}>{tag}</a>)}
        {may("machines:write") && (
          <span class="row push">
            <button type="button" class="small" onClick={() => setOpen("edit")}>Rename, tags</button>
            <button type="button" class="small danger" onClick={() => setOpen("remove")}>Remove</button>
          </span>
        )}
      </div>
      <div class="row">
        {may("commands:execute") && <QuickCommand machine={machine} />}
        {may("commands:execute") && machine.status === "online" && <a class="button" href={`/terminals?new=1&machine=${machine.id}`}>Terminal</a>}
        {may("commands:execute") && machine.status === "online" && <a class="button" href={`/coding?new=1&machine=${machine.id}`}>Coding session</a>}
        {may("files:read") && <a class="button" href={`/files?machine=${machine.id}`}>Files</a>}
      </div>
      {open === "edit" && <Edit machine={machine} close={close} />}
      {open === "remove" && <Remove machine={machine} close={close} />}
    </header>
  );
}

/** What is typed here goes on to the page that runs it, which knows what is risky. */
function QuickCommand({ machine }: Props) {
  const [text, setText] = useState("");
  return (
    <form
      class="row quick"
      onSubmit={(event) => {
        event.preventDefault();
        go(draftFor(machine.id, text));
      }}
    >
      <input type="text" class="mono" aria-label={`Command for ${machine.name}`} placeholder="Run a command here: uptime" value={text} autocomplete="off" spellcheck={false} onInput={(event) => setText(event.currentTarget.value)} />
      <button class="main">Run</button>
    </form>
  );
}

function Edit({ machine, close }: Props & { close: () => void }) {
  const [name, setName] = useState(machine.name);
  const [tags, setTags] = useState(machine.tags.join(", "));
  const [problem, setProblem] = useState<unknown>(null);
  const save = async () => {
    try {
      await patch(`/machines/${machine.id}`, { name: name.trim(), tags: tagsIn(tags) });
      toast("Saved");
      close();
    } catch (error) {
      setProblem(error);
    }
  };
  return (
    <Dialog title={`Rename or tag ${machine.name}`} close={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void save();
        }}
      >
        <Problem error={problem} />
        <Field label="Name" error={reasonOf(problem, "name")}>
          <input type="text" required value={name} onInput={(event) => setName(event.currentTarget.value)} />
        </Field>
        <Field label="Tags" hint="With commas between them. Keys, schedules and commands can be for a tag." error={reasonOf(problem, "tags")}>
          <input type="text" value={tags} onInput={(event) => setTags(event.currentTarget.value)} />
        </Field>
        <div class="row"><button class="main">Save</button><button type="button" onClick={close}>Cancel</button></div>
      </form>
    </Dialog>
  );
}

function Remove({ machine, close }: Props & { close: () => void }) {
  const [problem, setProblem] = useState<unknown>(null);
  const confirm = async () => {
    try {
      await remove(`/machines/${machine.id}`);
      toast(`${machine.name} is removed`);
      go("/");
    } catch (error) {
      setProblem(error);
    }
  };
  return (
    <Dialog title={`Remove ${machine.name}?`} close={close}>
      <p>Its agent is cut off and its key refused from now on; to come back it must join anew. What runs there runs on, unseen.</p>
      <p>Its commands stay in their list, its load is forgotten with it.</p>
      <Problem error={problem} />
      <div class="row">
        <button type="button" class="danger" onClick={() => void confirm()}>Remove {machine.name}</button>
        <button type="button" onClick={close}>Keep it</button>
      </div>
    </Dialog>
  );
}
