// Which machines are meant: the selectors of the command line, and what they fit.

import type { Machine } from "../../api/types";

export type Candidate = Pick<Machine, "id" | "name" | "hostname" | "tags" | "status">;

export const ALL = "@all";
const TAG = "tag:";

/** `web-*`, `db-?`, `n[0-9]`, `n[!5]` as a pattern for whole names. */
export function glob(pattern: string): RegExp {
  let source = "";
  for (let at = 0; at < pattern.length; at++) {
    const char = pattern[at]!;
    const set = char === "[" ? /^\[(!?)(\]?[^\]]*)\]/.exec(pattern.slice(at)) : null;
    if (set) {
      source += `[${set[1] && "^"}${set[2]!.replace(/[\\^[\]]/g, "\\$&")}]`;
      at += set[0].length - 1;
    } else if (char === "*") {
      if (!source.endsWith(".*")) source += ".*";
    } else source += char === "?" ? "." : char.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
  }
  try {
    return new RegExp(`^${source}$`, "s");
  } catch {
    return /(?!)/; // such as [z-a], which fits nothing
  }
}

export const isGlob = (selector: string): boolean => /[*?[]/.test(selector);

/** What one selector fits: `@all`, `tag:a,b` (both), a glob over names, or a machine's id, name or host name. */
export function fitting(selector: string, machines: readonly Candidate[]): readonly Candidate[] {
  if (selector === ALL) return machines;
  if (selector.startsWith(TAG)) {
    const wanted = selector.slice(TAG.length).split(",").filter(Boolean);
    return wanted.length ? machines.filter((machine) => wanted.every((tag) => machine.tags.includes(tag))) : [];
  }
  if (isGlob(selector)) {
    const pattern = glob(selector);
    return machines.filter((machine) => pattern.test(machine.name));
  }
  for (const key of ["id", "name", "hostname"] as const) {
    const found = machines.filter((machine) => machine[key] === selector);
    if (found.length) return found;
  }
  return [];
}

/** What any of them fits, each once, in the order of `machines`. */
export function allFitting<T extends Candidate>(selectors: readonly string[], machines: readonly T[]): T[] {
  const found = new Set(selectors.flatMap((selector) => fitting(selector, machines)));
  return machines.filter((machine) => found.has(machine));
}

/** What to call a selector: ids are nothing to read. */
export function titled(selector: string, machines: readonly Candidate[]): string {
  if (selector === ALL) return "all machines";
  return machines.find((machine) => machine.id === selector)?.name ?? selector;
}

/** The selectors that an address names: `?machines=…&tags=…&names=…&all=1`. */
export function readSelectors(query: URLSearchParams): string[] {
  const listed = (name: string) => (query.get(name) ?? "").split(",").filter(Boolean);
  return [
    ...(query.has("all") ? [ALL] : []),
    ...listed("tags").map((tag) => TAG + tag.replaceAll("+", ",")),
    ...listed("names"),
    ...listed("machines"),
  ];
}

/** The other way round. */
export function writeSelectors(selectors: readonly string[]): Record<"all" | "tags" | "names" | "machines", string> {
  const plain = selectors.filter((selector) => selector !== ALL && !selector.startsWith(TAG));
  return {
    all: selectors.includes(ALL) ? "1" : "",
    tags: selectors.filter((selector) => selector.startsWith(TAG)).map((selector) => selector.slice(TAG.length).replaceAll(",", "+")).join(","),
    names: plain.filter(isGlob).join(","),
    machines: plain.filter((selector) => !isGlob(selector)).join(","),
  };
}
