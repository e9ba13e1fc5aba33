// Which rows of a long table are there: those on the screen, and a few beyond it.

export interface Window {
  /** the first row that is there, and the first that is not any more */
  from: number;
  to: number;
}

const ALL = 60; // so few are all there, and found by the browser's own search
export const SPARE = 5; // rows beyond either edge, for keys and quick fingers

/** The rows on the screen of `count`, each `height` px high, when `above` px of them are above it; and `spare` more. */
export function windowOf(count: number, height: number, above: number, screen: number, spare = 0): Window {
  if (count <= ALL) return { from: 0, to: count };
  return {
    from: between(0, Math.floor(above / height) - spare, count),
    to: between(0, Math.ceil((above + screen) / height) + spare, count),
  };
}

/** What is drawn first on the way to `wanted`: what is `seen`, and what is there already. The rest has time. */
export function firstOf(before: Window, seen: Window, wanted: Window): Window {
  if (before.to <= seen.from || before.from >= seen.to) return seen;
  return { from: between(wanted.from, before.from, seen.from), to: between(seen.to, before.to, wanted.to) };
}

const between = (least: number, value: number, most: number) => Math.max(least, Math.min(most, value));
