import { look, type Look, PLAIN } from "./style";
import type { Span } from "./search";
import type { Line } from "./writer";

export interface Segment {
  text: string;
  look: Look;
  isFound: boolean;
}

/** A line as parts that look the same; `found` parts stand out. */
export function segments({ text, marks }: Pick<Line, "text" | "marks">, found: readonly Span[] = []): Segment[] {
  const edges = [0, text.length, ...marks.flatMap(({ start, end }) => [start, end]), ...found.flat()];
  const cuts = [...new Set(edges)].sort((a, b) => a - b);
  let mark = 0;
  let span = 0;
  return cuts.slice(0, -1).map((start, index) => {
    while (mark < marks.length && marks[mark]!.end <= start) mark++;
    while (span < found.length && found[span]![1] <= start) span++;
    const style = mark < marks.length && marks[mark]!.start <= start ? marks[mark]!.style : PLAIN;
    const isFound = span < found.length && found[span]![0] <= start;
    return { text: text.slice(start, cuts[index + 1]), look: look(style), isFound };
  });
}
