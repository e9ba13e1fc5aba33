// What terminals send for keys (xterm's).

export interface Held {
  ctrl: boolean;
  alt: boolean;
}

const ARROWS: Record<string, string> = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D" };
const PAGES: Record<string, string> = { PageUp: "5", PageDown: "6" };

/** The text that a key stands for. `isApplication`: the program asked for arrows of its own. */
export function sequence(key: string, { ctrl, alt }: Held, isApplication: boolean): string {
  const modifier = 1 + (alt ? 2 : 0) + (ctrl ? 4 : 0);
  const arrow = ARROWS[key];
  if (arrow) return modifier > 1 ? `\x1b[1;${modifier}${arrow}` : `\x1b${isApplication ? "O" : "["}${arrow}`;
  const page = PAGES[key];
  if (page) return modifier > 1 ? `\x1b[${page};${modifier}~` : `\x1b[${page}~`;
  const plain = { Escape: "\x1b", Tab: "\t" }[key] ?? (ctrl ? String.fromCharCode(key.charCodeAt(0) & 31) : key);
  return alt ? `\x1b${plain}` : plain;
}
