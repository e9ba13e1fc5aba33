import { useEffect, useRef, useState } from "preact/hooks";
import { call } from "../api/client";
import type { FileEntry } from "../api/types";
import { Empty } from "../parts/empty";
import { bytes } from "../parts/format";
import { useLoad } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { byName, loadMachines, machines } from "../state/machines";
import { may } from "../state/me";
import { query, setQuery } from "../state/routing";
import { remember, remembered } from "../state/theme";
import { type Action, ActionDialog } from "./files/actions";
import { above, crumbs } from "./files/paths";
import { DropZone, send, Uploads } from "./files/uploads";
import { downloadOf, Viewer } from "./files/viewer";

const RECENT_KEY = "cmdop.files.recent";
const RECENT = 8;
const STEP = 100; // the most the hub gives at once

const MARKS = { file: "", directory: "▸ ", symlink: "↪ ", other: "◇ " };

/** The disks of a machine. The address says which machine, and where. */
export default function Files() {
  useEffect(() => void loadMachines(), []);
  const online = byName.value.filter((machine) => machine.status === "online");
  const wanted = query.value.get("machine") ?? "";
  const machine = machines.value?.get(wanted) ?? online[0];
  if (machines.value && !machine) {
    return <Empty title="No machine is online"><p>Files are read from the machines themselves: come back when one is there.</p></Empty>;
  }
  return (
    <>
      <header class="row">
        <h1>Files</h1>
        <select aria-label="Machine" value={machine?.id} onChange={(event) => setQuery({ machine: event.currentTarget.value, path: null })}>
          {byName.value.map((each) => <option key={each.id} value={each.id}>{each.name}{each.status === "offline" ? " (offline)" : ""}</option>)}
        </select>
      </header>
      {machine && <Directory key={machine.id} machineId={machine.id} />}
    </>
  );
}

function Directory({ machineId }: { machineId: string }) {
  const wanted = query.value.get("path") ?? "";
  const hidden = query.value.get("hidden") === "1";
  const [count, setCount] = useState(STEP);
  const [viewed, setViewed] = useState<FileEntry | null>(null);
  const [action, setAction] = useState<Action | null>(null);
  const chooser = useRef<HTMLInputElement>(null);
  const found = useLoad(async (signal) => {
    const files: FileEntry[] = [];
    for (;;) {
      const page = await call<{ path: string; files: FileEntry[] }>("GET", `/machines/${machineId}/files`, { query: { path: wanted, hidden, limit: STEP, offset: files.length }, signal });
      files.push(...page.data.files);
      if (files.length >= count || !page.meta.has_more) return { path: page.data.path, files, total: page.meta.total };
    }
  }, [machineId, wanted, hidden, count]);
  const path = found.data?.path ?? wanted;
  useEffect(() => {
    if (found.data) remember(RECENT_KEY, JSON.stringify([path, ...recent().filter((each) => each !== path)].slice(0, RECENT)));
  }, [found.data?.path]);
  const mayWrite = may("files:write");
  const open = (to: string) => {
    setCount(STEP);
    setQuery({ machine: machineId, path: to });
  };
  return (
    <DropZone drop={(files) => mayWrite && send(machineId, path, files, found.reload)}>
      <nav class="row crumbs" aria-label="Where">
        {crumbs(path).map((crumb) => <button key={crumb.path} class="plain link" onClick={() => open(crumb.path)}>{crumb.name}</button>)}
      </nav>
      <form
        class="row"
        onSubmit={(event) => {
          event.preventDefault();
          open(String(new FormData(event.currentTarget).get("path")));
        }}
      >
        <input key={path} class="grow mono" name="path" aria-label="Path" list="recent-paths" defaultValue={path} />
        <datalist id="recent-paths">{recent().map((each) => <option key={each} value={each} />)}</datalist>
        <button class="small">Go</button>
        <button type="button" class="small" disabled={path === "/"} onClick={() => open(above(path))}>Up</button>
        <label class="row"><input type="checkbox" checked={hidden} onChange={(event) => setQuery({ hidden: event.currentTarget.checked ? "1" : null })} /> hidden</label>
        {mayWrite && (
          <>
            <button type="button" class="small" onClick={() => setAction({ kind: "mkdir" })}>New directory</button>
            <button type="button" class="main" onClick={() => chooser.current?.click()}>Upload</button>
            <input
              ref={chooser}
              type="file"
              multiple
              hidden
              aria-label="Files to upload"
              onChange={(event) => {
                send(machineId, path, [...(event.currentTarget.files ?? [])], found.reload);
                event.currentTarget.value = "";
              }}
            />
          </>
        )}
      </form>
      <Uploads done={found.reload} />
      <Problem error={found.error} retry={found.reload} />
      {found.data && !found.data.files.length && <Empty title="Nothing here"><p>{mayWrite ? "Drop files here to upload them." : "The directory is empty."}{!hidden && " Names that begin with a dot are hidden."}</p></Empty>}
      {found.data && found.data.files.length > 0 && (
        <Table
          label={`Files in ${path}`}
          rows={found.data.files}
          id={(entry) => entry.path_base64 ?? entry.path}
          columns={[
            {
              name: "Name",
              show: (entry) => (
                <button class="plain link name" onClick={() => (entry.type === "directory" || entry.type === "symlink" ? open(entry.path) : setViewed(entry))}>
                  <span aria-hidden="true">{MARKS[entry.type]}</span>{entry.name}{entry.target !== null && <span class="dim"> → {entry.target}</span>}
                </button>
              ),
            },
            { name: "Size", class: "number", show: (entry) => (entry.type === "file" ? bytes(entry.size) : "–") },
            { name: "Mode", show: (entry) => <code>{entry.mode}</code> },
            { name: "Owner", show: (entry) => `${entry.owner}:${entry.group}` },
            { name: "Changed", show: (entry) => <Ago at={entry.modified_at} /> },
            {
              name: "",
              show: (entry) => (
                <span class="row">
                  {entry.type === "file" && <a class="button small" download={entry.name} href={downloadOf(machineId, entry)}>Download</a>}
                  {mayWrite && (
                    <>
                      <button class="small" onClick={() => setAction({ kind: "move", entry })}>Move</button>
                      <button class="small" onClick={() => setAction({ kind: "copy", entry })}>Copy</button>
                      <button class="small danger" onClick={() => setAction({ kind: "remove", entry })}>Delete</button>
                    </>
                  )}
                </span>
              ),
            },
          ]}
        />
      )}
      {found.data && found.data.total > found.data.files.length && (
        <p class="dim">Showing {found.data.files.length} of {found.data.total}. <button class="small" onClick={() => setCount(count + STEP)}>More</button></p>
      )}
      {viewed && <Viewer machineId={machineId} entry={viewed} close={() => setViewed(null)} done={found.reload} />}
      {action && <ActionDialog action={action} machineId={machineId} directory={path} close={() => setAction(null)} done={found.reload} />}
    </DropZone>
  );
}

function recent(): string[] {
  try {
    const value: unknown = JSON.parse(remembered(RECENT_KEY) ?? "[]");
    return Array.isArray(value) ? value.filter((each) => typeof each === "string") : [];
  } catch {
    return [];
  }
}
