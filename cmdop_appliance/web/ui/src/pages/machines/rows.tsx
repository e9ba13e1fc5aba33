// The rows. Only those near the screen are there, each laid out by itself, and what lives in them
// redraws alone. (They are grids, for which browsers forget that it is a table: hence the roles.)

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Id, Machine } from "../../api/types";
import { byName, samplesOf } from "../../state/machines";
import { setQuery } from "../../state/routing";
import { arrange, type Asked, type Column, COLUMN_NAMES, held, isLive, sortBy } from "./order";
import { Row } from "./row";
import { noteScroll } from "./turns";
import { firstOf, SPARE, type Window, windowOf } from "./window";

const ROW_PX = 56;
const CARD_PX = 250; // with the 10 px below it
const ORDER_MS = 2000; // an order by what changes all the time moves no more often
const EXTEND_MS = 30; // what is not on the screen comes some frames later
const PHONE = matchMedia("(max-width: 48rem)");

const HEADS: (Column | "trend" | "actions")[] = ["state", "name", "cpu", "memory", "disk", "trend", "network", "uptime", "agent", "actions"];

export function Rows({ asked }: { asked: Asked }) {
  const [isPointed, setPointed] = useState(false);
  const [hasFocus, setFocus] = useState(false);
  const height = useRowHeight();
  useBeat(isLive(asked) ? ORDER_MS : 0);
  const machines = useArranged(asked, isPointed || hasFocus);
  const toggle = (isNow: boolean) => (event: PointerEvent) => event.pointerType === "mouse" && setPointed(isNow);
  if (!machines.length) return <p class="empty">No machine fits. <button type="button" class="small" onClick={() => setQuery({ q: null, state: null })}>Show all</button></p>;
  return (
    <table
      class="machines"
      role="table"
      aria-label="Machines"
      aria-rowcount={machines.length + 1}
      style={{ "--row": `${height}px` }}
      onPointerEnter={toggle(true)}
      onPointerLeave={toggle(false)}
      onFocusIn={(event) => setFocus((event.target as Element).closest("tbody") !== null)}
      onFocusOut={() => setFocus(false)}
    >
      <thead role="rowgroup">
        <tr role="row" aria-rowindex={1}>{HEADS.map((head) => <Head key={head} head={head} asked={asked} />)}</tr>
      </thead>
      <Body machines={machines} height={height} text={asked.text} />
    </table>
  );
}

function Body({ machines, height, text }: { machines: readonly Machine[]; height: number; text: string }) {
  const body = useRef<HTMLTableSectionElement>(null);
  const { from, to } = useWindow(body, machines.length, height);
  return (
    <tbody ref={body} role="rowgroup" style={{ height: `${machines.length * height}px` }}>
      {machines.slice(from, to).map((machine, index) => (
        <Row key={machine.id} machine={machine} index={from + index} top={(from + index) * height} text={text} />
      ))}
    </tbody>
  );
}

function Head({ head, asked }: { head: (typeof HEADS)[number]; asked: Asked }) {
  if (head === "actions") return <th scope="col" role="columnheader" class="actions"><span class="spoken">Actions</span></th>;
  if (head === "trend") return <th scope="col" role="columnheader" class="trend" title="CPU, the last 15 minutes">15 min</th>;
  const isSorted = asked.sort === head;
  return (
    <th scope="col" role="columnheader" class={head} aria-sort={isSorted ? (asked.isDown ? "descending" : "ascending") : undefined}>
      <button type="button" onClick={() => setQuery({ sort: sortBy(head, asked) })}>
        {COLUMN_NAMES[head]}<span aria-hidden="true">{isSorted ? (asked.isDown ? " ▾" : " ▴") : ""}</span>
      </button>
    </th>
  );
}

/** In order; while `isHeld`, in the order that they had. */
function useArranged(asked: Asked, isHeld: boolean): Machine[] {
  const before = useRef<{ asked: string; ids: Id[] }>({ asked: "", ids: [] });
  const key = JSON.stringify(asked);
  const fresh = arrange(byName.value, asked, (id) => samplesOf(id).peek());
  const shown = isHeld && before.current.asked === key ? held(before.current.ids, fresh) : fresh;
  before.current = { asked: key, ids: shown.map(({ id }) => id) };
  return shown;
}

/** Draw again every `ms`; 0: never. */
function useBeat(ms: number): void {
  const [, setBeat] = useState(0);
  useEffect(() => {
    if (!ms) return;
    const timer = setInterval(() => setBeat((beat) => beat + 1), ms);
    return () => clearInterval(timer);
  }, [ms]);
}

function useRowHeight(): number {
  const [isPhone, setPhone] = useState(PHONE.matches);
  useEffect(() => {
    const change = () => setPhone(PHONE.matches);
    PHONE.addEventListener("change", change);
    return () => PHONE.removeEventListener("change", change);
  }, []);
  return isPhone ? CARD_PX : ROW_PX;
}

function useWindow(body: { current: HTMLElement | null }, count: number, height: number): Window {
  const [shown, setShown] = useState<Window>({ from: 0, to: 0 });
  useLayoutEffect(() => {
    let timer = 0;
    const rowsWith = (spare: number) =>
      windowOf(count, height, -body.current!.getBoundingClientRect().top, innerHeight, spare);
    const show = (next: (before: Window) => Window) =>
      setShown((before) => {
        const after = next(before);
        return before.from === after.from && before.to === after.to ? before : after;
      });
    const extend = () => {
      timer = 0;
      show(() => rowsWith(SPARE));
    };
    const look = () => {
      const [seen, wanted] = [rowsWith(0), rowsWith(SPARE)];
      show((before) => firstOf(before, seen, wanted));
      timer ||= setTimeout(extend, EXTEND_MS);
    };
    const scroll = () => {
      noteScroll();
      look();
    };
    look();
    addEventListener("scroll", scroll, { passive: true });
    addEventListener("resize", look);
    return () => {
      clearTimeout(timer);
      removeEventListener("scroll", scroll);
      removeEventListener("resize", look);
    };
  }, [count, height]);
  return shown;
}
