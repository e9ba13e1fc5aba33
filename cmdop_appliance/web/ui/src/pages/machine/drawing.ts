// A graph on a canvas. Its colours are those of the page, and follow its theme.

import uPlot from "uplot";
import { bytes } from "../../parts/format";
import type { Series } from "./series";

const HEIGHT_PX = 170;
const TIMES_PX = 28;
const VALUES_PX = 66; // the same for all, so that times stand below each other
const FONT = "12px system-ui, sans-serif";
const DAY_S = 86_400;
const BYTES = Array.from({ length: 50 }, (_, power) => 2 ** power);
/** The first line and the second, told apart by more than colour. */
export const LINES = [{ color: "--accent", dash: [] }, { color: "--wait", dash: [4, 3] }] as const;

export interface Drawing {
  set: (series: Series) => void;
  resize: (width: number) => void;
  redraw: () => void;
  end: () => void;
}

/** Draw into `place`; `point` is told the index of the step that is pointed at, null: none. */
export function draw(place: HTMLElement, series: Series, point: (index: number | null) => void): Drawing {
  const plot = new uPlot(
    {
      width: Math.max(place.clientWidth, 100),
      height: HEIGHT_PX,
      legend: { show: false },
      cursor: { sync: { key: "history" }, points: { size: 7 }, y: false },
      scales: { y: { range: (_, __, most) => [0, series.unit === "percent" ? 100 : Math.max(most * 1.1, 1)] } },
      axes: [
        { ...axis(place), size: TIMES_PX, values: (_, splits, __, ___, step) => splits.map((at) => timeOf(at, step)) },
        { ...axis(place), size: VALUES_PX, incrs: series.unit === "percent" ? [25, 50] : BYTES, values: (_, splits) => splits.map((value) => shown(value, series.unit)) },
      ],
      series: [
        {},
        ...Object.keys(series.lines).map((label, index) => ({
          label,
          stroke: () => colorOf(place, LINES[index]!.color),
          dash: [...LINES[index]!.dash],
          width: 1.5,
          points: { show: true, size: 4, filter: alone },
        })),
      ],
      hooks: { setCursor: [({ cursor }) => point(cursor.idx ?? null)] },
    },
    dataOf(series),
    place,
  );
  plot.root.querySelector("canvas")?.setAttribute("aria-hidden", "true"); // the table says it in words
  return {
    set: (next) => plot.setData(dataOf((series = next))),
    resize: (width) => plot.setSize({ width, height: HEIGHT_PX }),
    redraw: () => plot.redraw(false, true),
    end: () => plot.destroy(),
  };
}

export const shown = (value: number, unit: Series["unit"]): string =>
  unit === "percent" ? `${Math.round(value)} %` : `${bytes(value)}/s`;

const dataOf = ({ at, lines }: Series): uPlot.AlignedData => [at, ...Object.values(lines)];

const axis = (place: HTMLElement): uPlot.Axis => ({
  stroke: () => colorOf(place, "--dim"),
  grid: { stroke: () => colorOf(place, "--line"), width: 1 },
  ticks: { show: false },
  font: FONT,
});

/** A canvas takes no variables, and `light-dark()` only once it has become a colour. */
function colorOf(place: HTMLElement, variable: string): string {
  place.style.color = `var(${variable})`;
  const { color } = getComputedStyle(place);
  place.style.color = "";
  return color;
}

/** Steps with a gap on either side, which would be no line: they are dots. */
function alone(plot: uPlot, index: number): number[] {
  const values = plot.data[index]!;
  return [...values.keys()].filter((at) => values[at] != null && values[at - 1] == null && values[at + 1] == null);
}

function timeOf(second: number, step: number): string {
  const time = new Date(second * 1000);
  const pad = (value: number) => String(value).padStart(2, "0");
  const day = `${pad(time.getMonth() + 1)}-${pad(time.getDate())}`;
  const clock = `${pad(time.getHours())}:${pad(time.getMinutes())}`;
  return step >= DAY_S || clock === "00:00" ? day : clock;
}
