import { useEffect, useRef, useState } from "preact/hooks";
import { clock } from "../../parts/when";
import { theme } from "../../state/theme";
import type { Drawing } from "./drawing";
import type { Chart } from "./series";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const drawing = import("./drawing"); // on its way together with the page
type Drawer = Awaited<typeof drawing>;

/** One graph, with what its lines are where somebody points. */
export function Graph({ chart: { title, series } }: { chart: Chart }) {
  const place = useRef<HTMLDivElement>(null);
  const drawn = useRef<Drawing | null>(null);
  const latest = useRef(series);
  latest.current = series;
  const [drawer, setDrawer] = useState<Drawer | null>(null);
  const [at, setAt] = useState<number | null>(null);
  useEffect(() => void drawing.then(setDrawer, () => undefined), []); // without it there are words
  useEffect(() => {
    const element = place.current;
    if (!drawer || !element) return;
    const made = (drawn.current = drawer.draw(element, latest.current, setAt));
    const sizes = new ResizeObserver(() => element.clientWidth && made.resize(element.clientWidth));
    sizes.observe(element);
    const redraw = () => drawn.current?.redraw();
    const stop = theme.subscribe(() => requestAnimationFrame(redraw)); // when the page has its colours
    DARK.addEventListener("change", redraw);
    return () => {
      drawn.current = null;
      sizes.disconnect();
      stop();
      DARK.removeEventListener("change", redraw);
      made.end();
    };
  }, [drawer]);
  useEffect(() => drawn.current?.set(series), [series]);
  return (
    <figure class="graph">
      <figcaption class="row">
        <strong>{title}</strong>
        {drawer && Object.entries(series.lines).map(([name, values], index) => (
          <span key={name} class={`legend line-${index}`}>
            <svg viewBox="0 0 16 4" aria-hidden="true"><line x1="0" y1="2" x2="16" y2="2" /></svg>
            {name}
            {at !== null && <span> {values[at] == null ? "–" : drawer.shown(values[at], series.unit)}</span>}
          </span>
        ))}
        {at !== null && series.at[at] !== undefined && <small class="dim push">{clock(series.at[at] * 1000).slice(0, 16)}</small>}
      </figcaption>
      <div ref={place} class="plot" />
    </figure>
  );
}
