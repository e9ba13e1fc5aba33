import type { JSX } from "preact";
import { type Segment, segments } from "./segments";
import { type Span, spans } from "./search";
import type { Line } from "./writer";

const NOTHING: readonly Span[] = [];

/** One line: its number, which is a link, and its text. */
export function Row({ line, wanted, href, isChosen, isCurrent, choose }: {
  line: Line;
  wanted: RegExp | null;
  href: string | undefined;
  isChosen: boolean;
  isCurrent: boolean;
  choose: (event: JSX.TargetedMouseEvent<HTMLAnchorElement>) => void;
}) {
  const kind = line.stream === "stderr" ? " stderr" : line.stream ? "" : " remark";
  const state = `${isChosen ? " chosen" : ""}${isCurrent ? " current" : ""}`;
  return (
    <div class={`line${kind}${state}`}>
      {line.number && href
        ? <a class="line-number" href={href} tabIndex={-1} onClick={choose}>{line.number}</a>
        : <span class="line-number">{line.number || ""}</span>}
      <code>{segments(line, wanted ? spans(line.text, wanted) : NOTHING).map(shown)}</code>
    </div>
  );
}

function shown({ text, look, isFound }: Segment) {
  if (isFound) return <mark>{text}</mark>;
  return look.key.trim() ? <span class={look.class} style={look.style}>{text}</span> : text;
}
