// How text looks, as the escape sequences of terminals (SGR) say it.

/** A colour: of the palette's 256, or `rgb(…)`. */
export type Colour = number | string;

export interface Style {
  readonly foreground?: Colour | undefined;
  readonly background?: Colour | undefined;
  readonly bold?: boolean;
  readonly faint?: boolean;
  readonly italic?: boolean;
  readonly underlined?: boolean;
  readonly struck?: boolean;
  readonly inverse?: boolean;
}

/** As a log shows what asks for nothing. */
export const PLAIN: Style = Object.freeze({});

const ON: Record<number, Style> = {
  1: { bold: true }, 2: { faint: true }, 3: { italic: true }, 4: { underlined: true },
  7: { inverse: true }, 9: { struck: true }, 21: { underlined: true },
  22: { bold: false, faint: false }, 23: { italic: false }, 24: { underlined: false },
  27: { inverse: false }, 29: { struck: false },
};

const MOST_KNOWN = 1000; // a program that uses all colours does not fill the memory with them
let known = new WeakMap<Style, Map<string, Style>>();

/** The style behind `\x1b[…m`. What hides text, or lets it blink, is not obeyed. */
export function restyled(style: Style, parameters: string): Style {
  let next = known.get(style);
  if (!next) known.set(style, (next = new Map()));
  let found = next.get(parameters);
  if (!found) {
    if (next.size >= MOST_KNOWN) known = new WeakMap();
    next.set(parameters, (found = computed(style, parameters)));
  }
  return found;
}

function computed(style: Style, parameters: string): Style {
  const codes = parameters.split(/[;:]/).map(Number);
  let next = style;
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at]!;
    if (code === 0) next = PLAIN;
    else if (ON[code]) next = { ...next, ...ON[code] };
    else if (code === 38 || code === 48) {
      const [colour, taken] = extended(codes.slice(at + 1));
      at += taken;
      if (colour !== undefined) next = { ...next, [code === 38 ? "foreground" : "background"]: colour };
    } else if (code >= 30 && code <= 37) next = { ...next, foreground: code - 30 };
    else if (code >= 90 && code <= 97) next = { ...next, foreground: code - 82 };
    else if (code >= 40 && code <= 47) next = { ...next, background: code - 40 };
    else if (code >= 100 && code <= 107) next = { ...next, background: code - 92 };
    else if (code === 39) next = { ...next, foreground: undefined };
    else if (code === 49) next = { ...next, background: undefined };
  }
  return next;
}

/** The colour that `5;N` or `2;R;G;B` names, and how many codes that took. */
function extended([kind, ...rest]: number[]): [Colour | undefined, number] {
  const isByte = (value: number | undefined): value is number => value !== undefined && value >= 0 && value <= 255;
  if (kind === 5) return [isByte(rest[0]) ? rest[0] : undefined, 2];
  if (kind !== 2) return [undefined, 1];
  const parts = rest.slice(0, 3);
  return [parts.length === 3 && parts.every(isByte) ? `rgb(${parts.join(" ")})` : undefined, 4];
}

export const isSame = (one: Style, other: Style): boolean => one === other || look(one).key === look(other).key;

export interface Look {
  class: string;
  /** Of colours that no class has. */
  style: { color?: string; background?: string };
  key: string;
}

const looks = new WeakMap<Style, Look>();

/** Classes and colours for a style. */
export function look(style: Style): Look {
  let found = looks.get(style);
  if (!found) looks.set(style, (found = lookOf(style)));
  return found;
}

function lookOf(style: Style): Look {
  const { foreground, background, inverse } = style;
  const front = inverse ? (background ?? "back") : foreground;
  const back = inverse ? (foreground ?? "text") : background;
  const classes = (["bold", "faint", "italic", "underlined", "struck"] as const).filter((name) => style[name]);
  const own: Look["style"] = {};
  const names: string[] = [...classes];
  for (const [colour, prefix, property] of [[front, "fg", "color"], [back, "bg", "background"]] as const) {
    if (colour === undefined) continue;
    if (colour === "back" || colour === "text" || (typeof colour === "number" && colour < 16)) names.push(`${prefix}-${colour}`);
    else own[property] = typeof colour === "number" ? ofPalette(colour) : colour;
  }
  return { class: names.join(" "), style: own, key: `${names.join(" ")} ${own.color ?? ""} ${own.background ?? ""}` };
}

/** A colour of xterm's palette, from 16 up: a cube of 6 × 6 × 6, then greys. */
function ofPalette(index: number): string {
  if (index >= 232) return `rgb(${Array(3).fill(8 + 10 * (index - 232)).join(" ")})`;
  const level = (value: number) => (value ? 55 + 40 * value : 0);
  const at = index - 16;
  return `rgb(${[Math.floor(at / 36), Math.floor(at / 6) % 6, at % 6].map(level).join(" ")})`;
}
