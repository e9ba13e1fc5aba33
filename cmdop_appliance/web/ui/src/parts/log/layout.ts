// Where the lines of a log stand, in rows of the same height, without asking the browser.

/** Rows of text that is `columns` wide; Infinity: it is not wrapped. */
export function rowsOf(text: string, columns: number): number {
  if (text.length <= columns / 2 || columns === Infinity) return 1;
  let width = text.length;
  if (/[^\x20-\x7e]/.test(text)) {
    width = 0;
    for (const char of text) {
      if (char === "\t") width += 8 - (width % 8);
      else width += WIDE.test(char) ? 2 : 1;
    }
  }
  return Math.max(1, Math.ceil(width / columns));
}

const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;

export class Layout {
  /** Of each line the first row; one more for the end. */
  private tops: number[] = [0];

  constructor(readonly columns: number) {}

  /** All rows. */
  get height(): number {
    return this.tops.at(-1)!;
  }

  /** How many lines it knows. */
  get size(): number {
    return this.tops.length - 1;
  }

  /** Lines from `from` on have changed, or are new. */
  update(lines: readonly { text: string }[], from: number): void {
    const first = Math.min(from, this.size);
    this.tops.length = first + 1;
    let top = this.tops[first]!;
    for (let at = first; at < lines.length; at++) this.tops.push((top += rowsOf(lines[at]!.text, this.columns)));
  }

  topOf(line: number): number {
    return this.tops[Math.max(0, Math.min(line, this.size))]!;
  }

  /** The line that has this row. */
  at(row: number): number {
    let low = 0;
    let high = Math.max(0, this.size - 1);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.tops[middle]! <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
