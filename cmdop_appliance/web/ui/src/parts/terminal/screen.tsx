// A terminal's screen: xterm over a wire. The only import site of xterm.

import "./nonce";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal as Xterm } from "@xterm/xterm";
import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Terminal } from "../../api/types";
import { remember, remembered } from "../../state/theme";
import { Dialog } from "../dialog";
import { distance } from "../when";
import { now } from "../time";
import { Keys } from "./keys";
import { type Mode, type Size, type State, Wire } from "./wire";

const FONT = '"Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const FONT_KEY = "cmdop.terminal.font";
const READER_KEY = "cmdop.terminal.reader";
const SCROLLBACK = 10_000; // lines
const COLOURS = { background: "#111418", foreground: "#e6e9ee", cursor: "#7ab3ff", selectionBackground: "#3b6ea8" };

/** The screen of a terminal that runs, with what belongs to it. */
export default function ScreenView({ terminal, mayType }: { terminal: Terminal; mayType: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const parts = useRef<{ term: Xterm; wire: Wire; search: SearchAddon } | null>(null);
  const view = useMemo(() => ({
    state: signal<State>({ is: "connecting" }),
    mode: signal<Mode>(mayType ? "operator" : "observer"),
    viewers: signal(terminal.viewers),
    size: signal<Size>(terminal),
    refused: signal(""),
  }), [terminal.id]);
  const [font, setFont] = useState(Number(remembered(FONT_KEY)) || 14);
  const [isRead, setRead] = useState(remembered(READER_KEY) === "yes");
  const [pasted, setPasted] = useState("");
  const [isSearching, setSearching] = useState(false);

  useEffect(() => {
    const element = box.current!;
    const term = new Xterm({ fontFamily: FONT, fontSize: font, theme: COLOURS, scrollback: SCROLLBACK, screenReaderMode: isRead, macOptionIsMeta: true });
    const fit = new FitAddon();
    const search = new SearchAddon();
    term.loadAddon(fit);
    term.loadAddon(search);
    term.loadAddon(new WebLinksAddon((_, uri) => window.open(uri, "_blank", "noopener,noreferrer")));
    term.open(element);
    const wanted = (): Size => fit.proposeDimensions() ?? { cols: 80, rows: 24 };
    const wire = new Wire(terminal.id, view.mode.peek(), wanted(), {
      show: (data) => term.write(data),
      gap: () => term.write("\r\n\x1b[0;7m what stood here is not kept \x1b[0m\r\n"),
      resized: (size) => {
        view.size.value = { cols: size.cols, rows: size.rows };
        term.resize(size.cols, size.rows);
      },
      viewers: (operators, observers) => (view.viewers.value = { operators, observers }),
      mode: (mode) => {
        view.mode.value = mode;
        term.options.disableStdin = mode === "observer";
      },
      state: (state) => {
        view.state.value = state;
        if (state.is === "open") view.refused.value = ""; // what was in the way has passed
      },
      refused: (text) => (view.refused.value = text),
    });
    const coder = new TextEncoder();
    const type = (text: string) => {
      if (!wire.type(coder.encode(text))) view.refused.value = "The machine takes no keys now: what you typed last was not sent.";
    };
    term.onData(type);
    term.onBinary((text) => wire.type(Uint8Array.from(text, (each) => each.charCodeAt(0))));
    term.onTitleChange((title) => (document.title = `${title} · ${terminal.name}`));
    term.attachCustomKeyEventHandler((event) => {
      const isOurs = event.ctrlKey && event.shiftKey && ["C", "F"].includes(event.key);
      if (!isOurs) return true;
      event.preventDefault();
      if (event.type === "keydown") {
        if (event.key === "F") setSearching(true);
        else document.execCommand("copy");
      }
      return false;
    });
    const paste = (event: ClipboardEvent) => {
      const text = event.clipboardData?.getData("text") ?? "";
      if (!/[\r\n]./s.test(text) || term.modes.bracketedPasteMode) return;
      event.preventDefault();
      event.stopPropagation();
      setPasted(text); // a shell would run each line at once
    };
    element.addEventListener("paste", paste, true);
    const observer = new ResizeObserver(() => wire.resize(wanted()));
    observer.observe(element);
    parts.current = { term, wire, search };
    term.focus();
    return () => {
      observer.disconnect();
      element.removeEventListener("paste", paste, true);
      wire.close();
      term.dispose();
      parts.current = null;
    };
  }, [terminal.id]);

  useEffect(() => {
    const { term, wire } = parts.current!;
    term.options.fontSize = font;
    term.options.screenReaderMode = isRead;
    remember(FONT_KEY, String(font));
    remember(READER_KEY, isRead ? "yes" : "no");
    const fit = new FitAddon();
    term.loadAddon(fit);
    wire.resize(fit.proposeDimensions() ?? view.size.peek());
    fit.dispose();
  }, [font, isRead]);

  const { operators, observers } = view.viewers.value;
  const isOperator = view.mode.value === "operator";
  return (
    <div class="terminal">
      <div class="row terminal-bar">
        <span class="dim" aria-live="polite">
          {operators + observers > 1 && `${operators + observers} watching · `}
          {view.size.value.cols}×{view.size.value.rows}
          {!isOperator && " · you only look"}
        </span>
        {mayType && (
          <button type="button" class="small" onClick={() => parts.current?.wire.become(isOperator ? "observer" : "operator")}>
            {isOperator ? "Only look" : "Take control"}
          </button>
        )}
        <button type="button" class="small" title="Smaller text" onClick={() => setFont(Math.max(8, font - 1))}>A−</button>
        <button type="button" class="small" title="Larger text" onClick={() => setFont(Math.min(32, font + 1))}>A+</button>
        <button type="button" class="small" aria-pressed={isSearching} onClick={() => setSearching(!isSearching)}>Search</button>
        <button type="button" class="small" aria-pressed={isRead} onClick={() => setRead(!isRead)}>Screen reader</button>
        <button type="button" class="small" onClick={() => box.current?.closest(".terminal")?.requestFullscreen?.()}>Full screen</button>
      </div>
      {isSearching && <Search search={parts.current?.search} close={() => { setSearching(false); parts.current?.term.focus(); }} />}
      {view.refused.value && (
        <p class="problem" role="alert">
          {view.refused.value} <button type="button" class="small" onClick={() => (view.refused.value = "")}>Dismiss</button>
        </p>
      )}
      <div class="terminal-frame">
        <div class="terminal-screen" ref={box} />
        <Overlay state={view.state.value} retry={() => parts.current?.wire.retryNow()} />
      </div>
      {isOperator && <Keys send={(text) => { parts.current?.term.input(text); parts.current?.term.focus(); }} isApplication={() => parts.current?.term.modes.applicationCursorKeysMode ?? false} />}
      {pasted && (
        <Dialog title={`Paste ${pasted.split(/\r\n|\r|\n/).length} lines?`} close={() => setPasted("")}>
          <pre class="scroll">{pasted}</pre>
          <p class="dim">A shell runs each line as it comes.</p>
          <p class="row">
            <button class="main" onClick={() => { parts.current?.term.paste(pasted); setPasted(""); }}>Paste</button>
            <button onClick={() => setPasted("")}>Cancel</button>
          </p>
        </Dialog>
      )}
    </div>
  );
}

function Overlay({ state, retry }: { state: State; retry: () => void }) {
  if (state.is === "open") return null;
  return (
    <p class="terminal-over" role="status">
      {state.is === "connecting" && "Connecting…"}
      {state.is === "machine-away" && "The machine is away. The terminal runs on, and comes back with it."}
      {state.is === "lost" && (
        <>
          The hub is away. Next try {distance(state.retryAt, now.value)}.{" "}
          <button class="small" onClick={retry}>Retry now</button>
        </>
      )}
      {state.is === "ended" && state.text}
    </p>
  );
}

function Search({ search, close }: { search: SearchAddon | undefined; close: () => void }) {
  const [text, setText] = useState("");
  const [isFound, setFound] = useState(true);
  const find = (wanted: string, back = false) =>
    setFound(!wanted || Boolean(back ? search?.findPrevious(wanted) : search?.findNext(wanted)));
  return (
    <form
      class="row"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        find(text);
      }}
      onKeyDown={(event) => event.key === "Escape" && close()}
    >
      <input
        type="search"
        aria-label="Search the screen"
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          find(event.currentTarget.value);
        }}
        autofocus
      />
      <button class="small">Next</button>
      <button type="button" class="small" onClick={() => find(text, true)}>Previous</button>
      {!isFound && <span class="wrong" role="status">Not found</span>}
    </form>
  );
}
