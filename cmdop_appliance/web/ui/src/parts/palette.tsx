import { useEffect, useState } from "preact/hooks";
import { PAGES } from "../pages";
import { byName, loadMachines } from "../state/machines";
import { go } from "../state/routing";
import { Dialog } from "./dialog";

interface Entry {
  title: string;
  aside: string;
  to: string;
  words: string;
}

const ACTIONS: Entry[] = [
  { title: "Add a machine", aside: "action", to: "/?add=1", words: "join enrol agent new" },
  { title: "Run a command", aside: "action", to: "/run", words: "exec execute shell batch" },
  { title: "New schedule", aside: "action", to: "/schedules?new=1", words: "cron timer" },
  { title: "New webhook", aside: "action", to: "/webhooks?new=1", words: "notify ntfy discord slack telegram gotify" },
  { title: "New coding session", aside: "action", to: "/coding?new=1", words: "claude codex gemini opencode ai agent" },
  { title: "New API key", aside: "action", to: "/keys?new=1", words: "token secret" },
];
const MOST = 30;

/** Ctrl-K: machines first, then pages, then actions. */
export function Palette({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  useEffect(() => void loadMachines(), []);
  const entries: Entry[] = [
    ...byName.value.map((machine) => ({
      title: machine.name,
      aside: machine.status === "online" ? "machine" : "machine, offline",
      to: `/machines/${machine.id}`,
      words: `${machine.hostname} ${machine.tags.join(" ")}`,
    })),
    ...PAGES.filter((page) => page.key).map((page) => ({ title: page.title, aside: "page", to: page.path, words: "" })),
    ...ACTIONS,
  ];
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = entries
    .filter(({ title, words, aside }) => {
      const all = `${title} ${words} ${aside}`.toLowerCase();
      return wanted.every((word) => all.includes(word));
    })
    .slice(0, MOST);
  const chosen = Math.min(at, found.length - 1);
  const open = (entry: Entry | undefined) => {
    if (!entry) return;
    close();
    go(entry.to);
  };
  return (
    <Dialog title="Find" close={close}>
      <input
        type="text"
        role="combobox"
        aria-expanded="true"
        aria-controls="found"
        aria-label="Machine, page or action"
        aria-activedescendant={found.length ? `found-${chosen}` : undefined}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setAt(0);
        }}
        onKeyDown={(event) => {
          const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (step) {
            event.preventDefault();
            setAt(Math.max(0, Math.min(found.length - 1, chosen + step)));
          } else if (event.key === "Enter") open(found[chosen]);
        }}
        autofocus
      />
      <ul id="found" role="listbox" aria-label="Found" class="found">
        {found.map((entry, index) => (
          <li
            key={entry.to}
            id={`found-${index}`}
            role="option"
            aria-selected={index === chosen}
            onClick={() => open(entry)}
          >
            {entry.title} <span class="dim">{entry.aside}</span>
          </li>
        ))}
      </ul>
      {!found.length && <p class="dim">Nothing fits.</p>}
    </Dialog>
  );
}
