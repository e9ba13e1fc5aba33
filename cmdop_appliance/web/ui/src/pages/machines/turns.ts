// Rows that come while somebody scrolls are drawn whole in turn, a few at a time, so that no frame
// has much to do. Those that are scrolled over never have theirs.

import { useEffect, useState } from "preact/hooks";

const SCROLLING_MS = 150;
const TURN_MS = 16;
const AT_ONCE = 4;

const waiting = new Set<() => void>();
let scrolledAt = -Infinity;
let timer = 0;

/** Somebody scrolls. */
export function noteScroll(): void {
  scrolledAt = performance.now();
}

/** Whether a row is to be drawn whole by now. */
export function useTurn(): boolean {
  const [isWhole, setWhole] = useState(() => performance.now() - scrolledAt > SCROLLING_MS);
  useEffect(() => (isWhole ? undefined : inTurn(() => setWhole(true))), [isWhole]);
  return isWhole;
}

function inTurn(act: () => void): () => void {
  waiting.add(act);
  timer ||= setTimeout(work, TURN_MS);
  return () => void waiting.delete(act);
}

function work(): void {
  for (const act of [...waiting].slice(0, AT_ONCE)) {
    waiting.delete(act);
    act();
  }
  timer = waiting.size ? setTimeout(work, TURN_MS) : 0;
}
