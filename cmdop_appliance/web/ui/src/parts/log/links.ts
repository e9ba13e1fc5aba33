// `#L120-140`: lines of a log in an address; `#E3`: of stderr.

import type { Stream } from "./writer";

export interface Lines {
  stream: Stream;
  first: number;
  last: number;
}

export function readLines(hash: string): Lines | null {
  const found = /^([LE])(\d{1,9})(?:-[LE]?(\d{1,9}))?$/.exec(hash);
  if (!found) return null;
  const ends = [Number(found[2]), Number(found[3] ?? found[2])];
  return { stream: found[1] === "E" ? "stderr" : "stdout", first: Math.min(...ends), last: Math.max(...ends) };
}

export function writeLines({ stream, first, last }: Lines): string {
  const letter = stream === "stderr" ? "E" : "L";
  return `${letter}${first}${last > first ? `-${last}` : ""}`;
}

export const has = (lines: Lines | null, stream: Stream | null, number: number): boolean =>
  lines !== null && lines.stream === stream && lines.first <= number && number <= lines.last;
