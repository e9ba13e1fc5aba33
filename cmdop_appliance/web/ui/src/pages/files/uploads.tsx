import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ApiError, newKey, said } from "../../api/client";
import { bytes } from "../../parts/format";
import { below } from "./paths";
import { upload } from "./upload";

interface Upload {
  id: string;
  machineId: string;
  file: File;
  path: string;
  sent: number;
  error: string;
  /** There is such a file, and it was not to be replaced. */
  isTaken: boolean;
  stop: AbortController;
}

/** What is on its way, on any machine; it goes on while other pages are looked at. */
const uploads = signal<Upload[]>([]);

const change = (id: string, part: Partial<Upload>) =>
  (uploads.value = uploads.value.map((each) => (each.id === id ? { ...each, ...part } : each)));

addEventListener("beforeunload", (event) => {
  if (uploads.value.some((each) => !each.error)) event.preventDefault();
});

/** Put files into a directory; `done` after each. */
export function send(machineId: string, directory: string, files: Iterable<File>, done: () => void): void {
  for (const file of files) {
    const each = { id: newKey(), machineId, file, path: below(directory, file.name), sent: 0, error: "", isTaken: false, stop: new AbortController() };
    uploads.value = [...uploads.value, each];
    void carryOn(each, false, done);
  }
}

/** Send what has not arrived. */
async function carryOn({ id, machineId, file, path, sent: from, stop }: Upload, overwrite: boolean, done: () => void): Promise<void> {
  change(id, { error: "", isTaken: false });
  try {
    await upload(machineId, file, path, { uploadId: id, from, signal: stop.signal, overwrite, progress: (sent) => change(id, { sent }) });
    drop(id);
    done();
  } catch (error) {
    change(id, { error: said(error), isTaken: error instanceof ApiError && error.code === "file_exists" });
  }
}

const drop = (id: string) => (uploads.value = uploads.value.filter((each) => each.id !== id));

export function Uploads({ done }: { done: () => void }) {
  if (!uploads.value.length) return null;
  return (
    <ul class="plain-list card group" aria-label="Uploads">
      {uploads.value.map((each) => (
        <li key={each.id} class="row">
          <span>{each.path}</span>
          {each.error ? <span class="wrong" role="alert">{each.error}</span>
            : <><progress max={each.file.size || 1} value={each.sent} aria-label={`Upload of ${each.file.name}`} /> <span class="dim">{bytes(each.sent)} of {bytes(each.file.size)}</span></>}
          <span class="push row">
            {each.error && <button class="small" onClick={() => void carryOn(each, each.isTaken, done)}>{each.isTaken ? "Replace it" : "Go on"}</button>}
            <button class="small" onClick={() => { each.stop.abort(); drop(each.id); }}>{each.error ? "Dismiss" : "Stop"}</button>
          </span>
        </li>
      ))}
    </ul>
  );
}

/** Where files are dropped, or chosen. */
export function DropZone({ drop: dropped, children }: { drop: (files: Iterable<File>) => void; children: preact.ComponentChildren }) {
  const [isOver, setOver] = useState(false);
  return (
    <div
      class={isOver ? "drop over" : "drop"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        dropped(event.dataTransfer?.files ?? []);
      }}
    >
      {children}
    </div>
  );
}
