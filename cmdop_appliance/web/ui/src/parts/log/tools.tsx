import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { copy } from "../copy";
import { pattern, Search } from "./search";
import type { LogText } from "./text";

export interface Searching {
  text: string;
  isRegex: boolean;
  change: (text: string, isRegex: boolean) => void;
  wanted: RegExp | null;
  error: string;
  /** Of the lines that have it, which is shown; -1: none yet. */
  index: number;
  count: number;
  /** That line. */
  current: number;
  /** Go to the next, or the one before; the first is looked for from line `from` on. */
  next: (step: 1 | -1, from: number) => number | null;
}

export function useSearch(log: LogText, isLive: boolean, redraw: () => void): Searching {
  const [text, setText] = useState("");
  const [isRegex, setRegex] = useState(false);
  const [index, setIndex] = useState(-1);
  const [wanted, error] = useMemo(() => read(text, isRegex), [text, isRegex]);
  const search = useMemo(() => wanted && new Search(wanted), [wanted, log]);
  const dropped = useRef(log.dropped);
  useEffect(() => {
    const gone = log.dropped - dropped.current;
    dropped.current = log.dropped;
    if (!search) return;
    if (gone) search.shift(gone);
    let timer = 0;
    const work = () => {
      const before = search.lines.length;
      const isMore = search.step(log.lines, isLive ? log.settled : log.lines.length);
      if (isMore) timer = window.setTimeout(work);
      if (search.lines.length !== before) redraw();
    };
    work();
    return () => clearTimeout(timer);
  }, [search, log.version.peek(), isLive]);

  const lines = search?.lines ?? [];
  return {
    text,
    isRegex,
    wanted,
    error,
    index,
    count: lines.length,
    current: lines[index] ?? -1,
    change: (newText, newRegex) => {
      setText(newText);
      setRegex(newRegex);
      setIndex(-1);
    },
    next: (step, from) => {
      if (!lines.length) return null;
      let to = (index + step + lines.length) % lines.length;
      if (index < 0) {
        const behind = lines.findIndex((line) => line >= from);
        to = step > 0 ? Math.max(0, behind) : (behind > 0 ? behind : lines.length) - 1;
      }
      setIndex(to);
      return lines[to]!;
    },
  };
}

function read(text: string, isRegex: boolean): [RegExp | null, string] {
  try {
    return [pattern(text, isRegex), ""];
  } catch {
    return [null, "That is no regular expression yet."];
  }
}

export function Tools({ search, find, isWrapped, wrap, copied, copyLabel, children }: {
  search: Searching;
  find: (step: 1 | -1) => void;
  isWrapped: boolean;
  wrap: (value: boolean) => void;
  copied: () => string;
  copyLabel: string;
  children?: ComponentChildren;
}) {
  const { text, isRegex, change, count, index, error } = search;
  return (
    <div class="log-tools row" role="group" aria-label="Log">
      <input
        type="search"
        aria-label="Search the log"
        placeholder="Search"
        value={text}
        onInput={(event) => change(event.currentTarget.value, isRegex)}
        onKeyDown={(event) => {
          if (event.key !== "Enter") return;
          event.preventDefault();
          find(event.shiftKey ? -1 : 1);
        }}
      />
      <label class="log-check" title="Regular expression">
        <input type="checkbox" checked={isRegex} onChange={(event) => change(text, event.currentTarget.checked)} /> Regex
      </label>
      {text && (
        <>
          <button type="button" class="small" aria-label="Previous match" disabled={!count} onClick={() => find(-1)}>↑</button>
          <button type="button" class="small" aria-label="Next match" disabled={!count} onClick={() => find(1)}>↓</button>
        </>
      )}
      <span role="status" class={error ? "wrong" : "dim"}>
        {error || (text && (count ? `${index >= 0 ? `${index + 1} of ` : ""}${count} ${count === 1 ? "line" : "lines"}` : "not found"))}
      </span>
      <label class="log-check push">
        <input type="checkbox" checked={isWrapped} onChange={(event) => wrap(event.currentTarget.checked)} /> Wrap
      </label>
      <button type="button" class="small" onClick={() => copy(copied())}>{copyLabel}</button>
      {children}
    </div>
  );
}
