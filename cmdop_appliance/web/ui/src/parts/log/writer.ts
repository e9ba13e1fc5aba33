// What a program wrote to a terminal, as lines. Hostile text: of control sequences, only colours,
// and what progress bars need, have an effect; all others are dropped.

import { isSame, PLAIN, restyled, type Style } from "./style";

export type Stream = "stdout" | "stderr";

/** Characters `start` up to, not including, `end` look like `style`. */
export interface Mark {
  start: number;
  end: number;
  style: Style;
}

export interface Line {
  /** null: a remark of ours. */
  readonly stream: Stream | null;
  /** Of its stream, from 1; 0: it goes on with the line before. */
  readonly number: number;
  text: string;
  /** In order; what has none is plain. */
  marks: Mark[];
}

/** Characters in a line; what is longer goes on in the next. */
export const LONGEST = 4096;
const NONE: Mark[] = []; // one for all plain lines

const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;
// CSI, with `?` and the like; strings (OSC, DCS, APC, PM, SOS) up to their end, or that of the line; others.
const SEQUENCE = /\x1b(?:\[([0-?]{0,99})[ -/]{0,9}([@-~])|[\]P_^X][^\n\x07\x1b]{0,4096}(?:\x07|\x1b\\|(?=\n|\x1b[^\\]))|[ -/]{0,9}[0-OQ-WYZ\\`-~])/y;
const UNFINISHED = /\x1b(?:\[[0-?]{0,99}[ -/]{0,9}|[\]P_^X][^\n\x07\x1b]{0,4096}\x1b?|[ -/]{0,9})$/y;

/** Turns the text of one stream into lines, as it comes. */
export class Writer {
  private number = 0;
  private line: Line | null = null;
  private column = 0;
  private style: Style = PLAIN;
  private pending = "";
  private isBroken = false;

  constructor(
    private readonly stream: Stream,
    private readonly begin: (line: Line) => void,
  ) {}

  /** The line that may still change. */
  get open(): Line | null {
    return this.line;
  }

  /** What comes goes on in a line of its own. */
  breakLine(): void {
    if (!this.line) return;
    this.line = null;
    this.column = 0;
    this.isBroken = true;
  }

  write(text: string): void {
    const all = this.pending + text;
    this.pending = "";
    let at = 0;
    while (at < all.length) {
      CONTROL.lastIndex = at;
      const control = CONTROL.exec(all)?.index ?? all.length;
      if (control > at) this.put(all.slice(at, control));
      if (control === all.length) return;
      const taken = this.obey(all, control);
      if (!taken) {
        this.pending = all.slice(control);
        return;
      }
      at = control + taken;
    }
  }

  /** How many characters the control sequence at `at` has; 0: the rest of it is still to come. */
  private obey(all: string, at: number): number {
    switch (all[at]) {
      case "\n":
        if (!this.line && !this.isBroken) this.start();
        this.line = null;
        this.column = 0;
        this.isBroken = false;
        return 1;
      case "\r":
        this.column = 0;
        return 1;
      case "\b":
        this.column = Math.max(0, this.column - 1);
        return 1;
      case "\x1b": {
        SEQUENCE.lastIndex = UNFINISHED.lastIndex = at;
        const found = SEQUENCE.exec(all);
        if (!found) return UNFINISHED.test(all) ? 0 : 1;
        this.act(found[2], found[1] ?? "");
        return found[0].length;
      }
      default:
        return 1;
    }
  }

  private act(final: string | undefined, parameters: string): void {
    if (final === "m" && !/[<-?]/.test(parameters)) this.style = restyled(this.style, parameters);
    else if (final === "K") this.erase(Number(parameters) || 0);
    else if (final === "G") this.column = Math.min(Math.max(0, (Number(parameters) || 1) - 1), this.line?.text.length ?? 0);
  }

  private start(): Line {
    const line = { stream: this.stream, number: this.isBroken ? 0 : ++this.number, text: "", marks: NONE };
    this.isBroken = false;
    this.line = line;
    this.begin(line);
    return line;
  }

  private put(text: string): void {
    let rest = text;
    while (rest) {
      const line = this.line ?? this.start();
      let room = LONGEST - this.column;
      if (room < rest.length && isHighHalf(rest, room - 1)) room--;
      if (room <= 0) {
        this.breakLine();
        continue;
      }
      const part = rest.slice(0, room);
      rest = rest.slice(room);
      const end = this.column + part.length;
      line.marks = painted(line.marks, this.column, end, this.style);
      if (this.column === line.text.length) line.text += part;
      else line.text = line.text.slice(0, this.column) + part + line.text.slice(end);
      this.column = end;
    }
  }

  private erase(how: number): void {
    const line = this.line;
    if (!line) return;
    const size = line.text.length;
    line.marks = painted(line.marks, how ? 0 : this.column, how === 1 ? this.column : size, PLAIN);
    const before = how ? " ".repeat(this.column) : line.text.slice(0, this.column);
    line.text = how === 1 ? before + line.text.slice(this.column) : before;
  }
}

const isHighHalf = (text: string, at: number) => at >= 0 && (text.charCodeAt(at) & 0xfc00) === 0xd800;

/** `marks`, with `start` up to `end` in this style. */
function painted(marks: Mark[], start: number, end: number, style: Style): Mark[] {
  const last = marks.at(-1);
  const isPlain = isSame(style, PLAIN);
  if (start === end) return marks;
  if (!last || last.end <= start) {
    if (isPlain) return marks;
    if (last?.end === start && isSame(last.style, style)) last.end = end;
    else if (last) marks.push({ start, end, style });
    else return [{ start, end, style }];
    return marks;
  }
  const before = marks.filter((mark) => mark.start < start).map((mark) => ({ ...mark, end: Math.min(mark.end, start) }));
  const after = marks.filter((mark) => mark.end > end).map((mark) => ({ ...mark, start: Math.max(mark.start, end) }));
  return [...before, ...(isPlain ? [] : [{ start, end, style }]), ...after];
}
