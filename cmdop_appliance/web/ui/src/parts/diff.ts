// What one text has that another has not: a unified diff.

import { structuredPatch } from "diff";

export interface Change {
  kind: "same" | "less" | "more" | "place";
  text: string;
}

const MOST_LINES = 5000; // of a text that is compared
const MOST_STEPS = 1000; // lines that differ
const CONTEXT = 3;

const KINDS: Record<string, Change["kind"]> = { " ": "same", "-": "less", "+": "more" };

/** null: they are too long, or too different, for it to help anybody. */
export function unified(before: string, after: string): Change[] | null {
  if (Math.max(before.split("\n", MOST_LINES + 1).length, after.split("\n", MOST_LINES + 1).length) > MOST_LINES) return null;
  const patch = structuredPatch("", "", before, after, "", "", { context: CONTEXT, maxEditLength: MOST_STEPS });
  if (!patch) return null;
  return patch.hunks.flatMap(({ oldStart, oldLines, newStart, newLines, lines }) => [
    { kind: "place", text: `@@ -${oldStart},${oldLines} +${newStart},${newLines} @@` } as Change,
    ...lines.map((line): Change => ({ kind: KINDS[line[0]!] ?? "place", text: line.slice(1) })),
  ]);
}
