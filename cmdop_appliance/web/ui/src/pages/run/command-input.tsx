import { useEffect, useRef, useState } from "preact/hooks";
import { useHistory } from "./history";

const SHOWN = 15; // earlier commands

/** Where the command is typed. Ctrl-Enter runs it; the arrow keys bring back earlier ones. */
export function CommandInput({ isAwaited, text, change, run }: {
  /** It is what comes next: type at once, unless the keyboard is elsewhere. */
  isAwaited: boolean;
  text: string;
  change: (text: string) => void;
  run: () => void;
}) {
  const input = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    if (isAwaited && document.activeElement?.matches("body, #content")) input.current!.focus({ preventScroll: true });
  }, [isAwaited]);
  const history = useHistory();
  const [at, setAt] = useState(-1); // in the history; -1: nothing of it
  const recall = (index: number) => {
    if (index >= history.commands.length) return;
    setAt(Math.max(-1, index));
    change(index < 0 ? "" : history.commands[index]!);
  };
  return (
    <section class="card" aria-labelledby="command">
      <h2 id="command">Command</h2>
      <textarea
        ref={input}
        aria-labelledby="command"
        aria-keyshortcuts="Control+Enter"
        rows={Math.min(12, Math.max(2, text.split("\n").length))}
        placeholder="uptime"
        autocomplete="off"
        autocapitalize="off"
        spellcheck={false}
        value={text}
        onFocus={history.load}
        onInput={(event) => {
          setAt(-1);
          change(event.currentTarget.value);
        }}
        onKeyDown={(event) => {
          const { value, selectionStart } = event.currentTarget;
          const isHistory = value === (history.commands[at] ?? "");
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            run();
          } else if (event.key === "ArrowUp" && isHistory && !value.slice(0, selectionStart).includes("\n")) {
            event.preventDefault();
            recall(at + 1);
          } else if (event.key === "ArrowDown" && at >= 0 && isHistory && !value.slice(selectionStart).includes("\n")) {
            event.preventDefault();
            recall(at - 1);
          }
        }}
      />
      <details class="history" onToggle={history.load}>
        <summary>Recent commands</summary>
        {history.commands.length === 0 && <p class="dim">This key has run none yet.</p>}
        <ul>
          {history.commands.slice(0, SHOWN).map((command) => (
            <li key={command}><button type="button" class="plain" onClick={() => change(command)}><code>{command}</code></button></li>
          ))}
        </ul>
      </details>
    </section>
  );
}
