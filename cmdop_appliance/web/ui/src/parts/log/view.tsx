import type { ComponentChildren, JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { go, hash, path } from "../../state/routing";
import { remember, remembered } from "../../state/theme";
import { counted } from "../format";
import { Layout } from "./layout";
import { has, readLines, writeLines } from "./links";
import { Row } from "./row";
import type { LogText } from "./text";
import { Tools, useSearch } from "./tools";
import type { Line } from "./writer";

const ROW = 20; // px, as in log.css
const BESIDE = 36; // px beside number and text, as in log.css
const OVER = 12; // rows above and below what is seen
const WRAP = "cmdop.log.wrap";

/** A log of any length. `at`: the page that lines are linked to; the address of this one names them. */
export function LogView({ log, label, at, isLive = false, hasTools = true, nothing = "It wrote nothing.", children }: {
  log: LogText;
  label: string;
  at?: string;
  isLive?: boolean;
  hasTools?: boolean;
  nothing?: string;
  /** More tools. */
  children?: ComponentChildren;
}) {
  const isHere = at === path.value;
  const named = isHere ? hash.value : "";
  const chosen = readLines(named);
  const box = useRef<HTMLDivElement>(null);
  const [isWrapped, setWrapped] = useState(remembered(WRAP) !== "no");
  const [top, setTop] = useState(0);
  const size = useSize(box, log);
  const [isFollowing, setFollowing] = useState(isLive && !chosen);
  const left = useRef({ at: 0, total: 0 });
  const redraw = useRedraw(log);
  const search = useSearch(log, isLive, redraw);

  const digits = String(log.total).length;
  const beside = digits * size.character + BESIDE;
  const columns = isWrapped ? Math.max(10, Math.floor((size.width - beside) / size.character)) : Infinity;
  const layout = useLayout(log, columns);
  const seen = isFollowing ? Math.max(0, layout.height * ROW - size.height) : top;
  const first = layout.at(Math.floor(seen / ROW) - OVER);
  const last = layout.at(Math.ceil((seen + Math.max(size.height, window.innerHeight)) / ROW) + OVER);

  useLayoutEffect(() => {
    if (isFollowing && box.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const show = (line: number) => {
    setFollowing(false);
    if (box.current) box.current.scrollTop = layout.topOf(line) * ROW - size.height / 3;
  };
  const reached = useRef("");
  useEffect(() => {
    if (!chosen || reached.current === named) return;
    const line = log.find(chosen.stream, chosen.first);
    if (line < 0 || line >= layout.size) return;
    reached.current = named;
    show(line);
  });

  const name = (text: string) => {
    reached.current = text;
    go(`${at}#${text}`, "replace");
  };
  const choose = (line: Line) => (event: JSX.TargetedMouseEvent<HTMLAnchorElement>) => {
    if (!isHere || !line.stream || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const from = event.shiftKey && chosen?.stream === line.stream ? chosen.first : line.number;
    name(writeLines({ stream: line.stream, first: Math.min(from, line.number), last: Math.max(from, line.number) }));
  };
  const scrolled = (event: JSX.TargetedEvent<HTMLDivElement>) => {
    const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
    if (scrollHeight - scrollTop - clientHeight < ROW) setFollowing(true);
    else if (scrollTop < left.current.at && isFollowing) {
      setFollowing(false);
      left.current.total = log.total;
    }
    left.current.at = scrollTop;
    setTop(scrollTop);
  };
  const below = isLive && left.current.total ? log.total - left.current.total : 0;
  const hasMore = !isFollowing && layout.height * ROW > seen + size.height + ROW;

  return (
    <section class="log" aria-label={label}>
      {hasTools && (
        <Tools
          search={search}
          find={(step) => {
            const line = search.next(step, layout.at(Math.ceil(seen / ROW)));
            if (line === null) return;
            show(line);
            const { stream, number } = log.lines[line]!;
            if (isHere && stream && number) name(writeLines({ stream, first: number, last: number }));
          }}
          isWrapped={isWrapped}
          wrap={(value) => {
            setWrapped(value);
            remember(WRAP, value ? "yes" : "no");
          }}
          copied={() => log.copied(chosen)}
          copyLabel={chosen ? "Copy these lines" : "Copy"}
        >
          {children}
        </Tools>
      )}
      {log.dropped > 0 && <p class="log-note">The first {counted(log.dropped, "line")} are only in the download.</p>}
      <div class="log-frame">
        <div
          ref={box}
          class={`log-box${isWrapped ? " wrapped" : ""}`}
          role="region"
          aria-label={`Lines of ${label}`}
          tabIndex={0}
          onScroll={scrolled}
        >
          {log.lines.length === 0 && <p class="log-note">{isLive ? "No output yet." : nothing}</p>}
          <div class="log-all" style={{ height: layout.height * ROW, minWidth: isWrapped ? 0 : log.longest * size.character + beside }}>
            <div class="log-seen" style={{ top: layout.topOf(first) * ROW, "--digits": `${digits}ch` }}>
              {log.lines.slice(first, last + 1).map((line, index) => (
                <Row
                  key={log.dropped + first + index}
                  line={line}
                  wanted={search.wanted}
                  href={at && line.stream ? `${at}#${writeLines({ stream: line.stream, first: line.number, last: line.number })}` : undefined}
                  isChosen={has(chosen, line.stream, line.number)}
                  isCurrent={search.current === first + index}
                  choose={choose(line)}
                />
              ))}
            </div>
          </div>
        </div>
        {hasMore && (
          <button type="button" class="small log-end" onClick={() => setFollowing(true)}>
            ↓ {below > 0 ? counted(below, "new line") : "End"}
          </button>
        )}
      </div>
    </section>
  );
}

/** Draw again as the log grows, once per frame. */
function useRedraw(log: LogText): () => void {
  const [, setTurn] = useState(0);
  const redraw = () => setTurn((turn) => turn + 1);
  useEffect(() => {
    let frame = 0;
    const stop = log.version.subscribe(() => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        redraw();
      });
    });
    return () => {
      stop();
      cancelAnimationFrame(frame);
    };
  }, [log]);
  return redraw;
}

function useLayout(log: LogText, columns: number): Layout {
  const kept = useRef<{ log: LogText; layout: Layout; dropped: number; settled: number } | null>(null);
  let state = kept.current;
  if (state?.log !== log || state.layout.columns !== columns || state.dropped !== log.dropped) {
    state = kept.current = { log, layout: new Layout(columns), dropped: log.dropped, settled: 0 };
  }
  state.layout.update(log.lines, state.settled);
  state.settled = log.settled;
  return state.layout;
}

interface Size {
  width: number;
  height: number;
  /** How wide one character is. */
  character: number;
}

/** All in px. */
function useSize(box: { current: HTMLDivElement | null }, log: LogText): Size {
  const [size, setSize] = useState<Size>({ width: 800, height: 400, character: 7.8 });
  useLayoutEffect(() => {
    const element = box.current!;
    const probe = document.createElement("span");
    probe.className = "log-probe";
    probe.textContent = "0".repeat(100);
    const measure = () => {
      element.append(probe);
      const character = probe.getBoundingClientRect().width / 100 || 7.8;
      probe.remove();
      const { clientWidth: width, clientHeight: height } = element;
      setSize((before) =>
        before.width === width && before.height === height && before.character === character
          ? before
          : { width, height, character });
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, [log]);
  return size;
}
