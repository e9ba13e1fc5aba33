import { useEffect, useState } from "preact/hooks";
import { address, ApiError, get, put } from "../../api/client";
import type { FileContent, FileEntry } from "../../api/types";
import { Dialog } from "../../parts/dialog";
import { type Change, unified } from "../../parts/diff";
import { bytes } from "../../parts/format";
import { Problem } from "../../parts/problem";
import { toast } from "../../parts/toast";
import { may } from "../../state/me";
import { imageType } from "./paths";

const MOST = 1024 * 1024; // what is shown here; anything larger is downloaded

/** Look at a file, and change it if it is text. */
export function Viewer({ machineId, entry, close, done }: { machineId: string; entry: FileEntry; close: () => void; done: () => void }) {
  const type = imageType(entry.name);
  const isLarge = entry.size > MOST;
  return (
    <Dialog title={entry.name} close={close} wide>
      <p class="row dim">
        {bytes(entry.size)} · {entry.mode} · {entry.owner}:{entry.group}
        <a class="button small push" download={entry.name} href={downloadOf(machineId, entry)}>Download</a>
      </p>
      {isLarge ? <p>It is too large to be shown here.</p>
        : type ? <Picture machineId={machineId} entry={entry} type={type} />
        : <Text machineId={machineId} entry={entry} done={done} />}
    </Dialog>
  );
}

export const downloadOf = (machineId: string, entry: FileEntry): string =>
  address(`/machines/${machineId}/files/download`, entry.path_base64 ? { path_base64: entry.path_base64 } : { path: entry.path });

function Picture({ machineId, entry, type }: { machineId: string; entry: FileEntry; type: string }) {
  const [url, setUrl] = useState("");
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let made = "";
    fetch(downloadOf(machineId, entry))
      .then(async (answer) => {
        if (!answer.ok) throw new Error(`The hub answered HTTP ${answer.status}.`);
        setUrl((made = URL.createObjectURL(new Blob([await answer.arrayBuffer()], { type }))));
      })
      .catch(setError);
    return () => URL.revokeObjectURL(made);
  }, [entry.path]);
  return <><Problem error={error} />{url && <img class="picture" src={url} alt={entry.name} />}</>;
}

function Text({ machineId, entry, done }: { machineId: string; entry: FileEntry; done: () => void }) {
  const [file, setFile] = useState<FileContent | null>(null);
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [changes, setChanges] = useState<Change[] | null | undefined>(undefined);
  const path = `/machines/${machineId}/files/content`;
  const load = () =>
    get<FileContent>(path, entry.path_base64 ? { path_base64: entry.path_base64 } : { path: entry.path }).then((found) => {
      setFile(found);
      setText(found.content);
      setError(null);
      setChanges(undefined);
    }, setError);
  useEffect(() => void load(), [entry.path]);
  if (!file) return <Problem error={error} retry={load} />;
  if (file.encoding === "base64") return <p>It is no text (UTF-8): download it to look at it.</p>;
  const isChanged = text !== file.content;
  const save = async () => {
    setError(null);
    try {
      const written = await put<{ sha256: string }>(path, {
        ...(entry.path_base64 ? { path_base64: entry.path_base64 } : { path: entry.path }),
        content: text,
        if_match: file.sha256,
      });
      setFile({ ...file, content: text, sha256: written.sha256 });
      setChanges(undefined);
      toast(`${entry.name} is saved`);
      done();
    } catch (problem) {
      setError(problem);
    }
  };
  const isConflict = error instanceof ApiError && error.code === "changed";
  return (
    <>
      <Problem error={error} />
      {isConflict && <p><button onClick={load}>Show what is there now</button> <span class="wrong">What you changed here is lost then: copy it first.</span></p>}
      {changes === undefined ? (
        <textarea class="editor" aria-label={`Content of ${entry.name}`} spellcheck={false} value={text} readOnly={!may("files:write")} onInput={(event) => setText(event.currentTarget.value)} />
      ) : (
        <pre class="scroll diff" aria-label="What will change">
          {changes === null ? "Too much has changed to be shown." : changes.map((change, index) => <div key={index} class={change.kind}>{{ same: "  ", less: "- ", more: "+ ", place: "" }[change.kind]}{change.text}</div>)}
        </pre>
      )}
      {may("files:write") && (
        <p class="row">
          {changes === undefined
            ? <button class="main" disabled={!isChanged} onClick={() => setChanges(unified(file.content, text))}>Look at the changes</button>
            : <><button class="main" onClick={save}>Save</button><button onClick={() => setChanges(undefined)}>Back</button></>}
        </p>
      )}
    </>
  );
}
