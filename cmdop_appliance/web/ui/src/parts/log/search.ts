// Looking for text in a log, a slice at a time: the page stays usable meanwhile.

import type { Line } from "./writer";

/** Where a line has what is looked for: `start` up to, not including, `end`. */
export type Span = [start: number, end: number];

const LINES_AT_ONCE = 5000;
const MOST_SPANS = 200; // in one line

/** What finds `wanted`, in either case; null: nothing is looked for. Throws SyntaxError. */
export function pattern(wanted: string, isRegex: boolean): RegExp | null {
  if (!wanted) return null;
  return new RegExp(isRegex ? wanted : wanted.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "gi");
}

export function spans(text: string, wanted: RegExp): Span[] {
  const found: Span[] = [];
  wanted.lastIndex = 0;
  for (let match = wanted.exec(text); match && found.length < MOST_SPANS; match = wanted.exec(text)) {
    if (match[0]) found.push([match.index, match.index + match[0].length]);
    else wanted.lastIndex++;
  }
  return found;
}

/** The lines that have it, as far as they were looked at. */
export class Search {
  lines: number[] = [];
  private seen = 0;

  constructor(readonly wanted: RegExp) {}

  /** Look at some more, up to `settled`. True: there are others. */
  step(lines: readonly Line[], settled: number): boolean {
    const end = Math.min(settled, this.seen + LINES_AT_ONCE);
    for (; this.seen < end; this.seen++) {
      this.wanted.lastIndex = 0;
      const match = this.wanted.exec(lines[this.seen]!.text);
      if (match?.[0]) this.lines.push(this.seen);
    }
    return end < settled;
  }

  /** The first lines of the log went. */
  shift(count: number): void {
    this.lines = this.lines.filter((line) => line >= count).map((line) => line - count);
    this.seen = Math.max(0, this.seen - count);
  }
}
