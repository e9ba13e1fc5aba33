// The history of a machine as lines to draw, and in words.

import type { Metrics, Point } from "../../api/types";

export const RANGES = { "1h": 3_600_000, "6h": 6 * 3_600_000, "24h": 86_400_000, "7d": 7 * 86_400_000, "30d": 30 * 86_400_000 };
export type Range = keyof typeof RANGES;
export const RANGE_NAMES: Record<Range, string> = { "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d" };

export const rangeOf = (text: string | null): Range => (text && Object.hasOwn(RANGES, text) ? (text as Range) : "1h");

type Values = (number | null)[];

export interface Series {
  /** s since 1970, one for each step */
  at: number[];
  /** by name: percent, or bytes a second */
  lines: Record<string, Values>;
  /** `7 %`, `1.2 KiB/s` */
  unit: "percent" | "rate";
}

export interface Chart {
  title: string;
  series: Series;
}

/** One point for each step: those that have no sample are gaps, not lines from edge to edge. */
export function chartsOf({ from, to, step, points }: Metrics): Chart[] {
  const known = new Map(points.map((point) => [Date.parse(point.at), point]));
  const at: number[] = [];
  for (let ms = Math.ceil(Date.parse(from) / step) * step; ms <= Date.parse(to); ms += step) at.push(ms);
  const line = (value: (point: Point) => number | null): Values =>
    at.map((ms) => {
      const point = known.get(ms);
      return point ? value(point) : null;
    });
  const rate = (bytes: number | null) => (bytes === null ? null : bytes / (step / 1000));
  const seconds = at.map((ms) => ms / 1000);
  const share = (title: string, mean: (point: Point) => number, most: (point: Point) => number): Chart => ({
    title,
    series: { at: seconds, unit: "percent", lines: { mean: line(mean), most: line(most) } },
  });
  return [
    share("CPU", (point) => point.cpu_percent, (point) => point.cpu_percent_max),
    share("Memory", (point) => point.memory_percent, (point) => point.memory_percent_max),
    share("Disk", (point) => point.disk_percent, (point) => point.disk_percent_max),
    {
      title: "Network",
      series: {
        at: seconds,
        unit: "rate",
        lines: { in: line((point) => rate(point.network_rx_bytes)), out: line((point) => rate(point.network_tx_bytes)) },
      },
    },
  ];
}

export interface Summary {
  title: string;
  line: string;
  mean: number;
  most: number;
  /** of the most; ms since 1970 */
  at: number;
  unit: Series["unit"];
}

/** What the lines say, for who does not see them; of a share the peaks are those of its samples. */
export function summaryOf(charts: readonly Chart[]): Summary[] {
  return charts.flatMap(({ title, series: { at, lines, unit } }) => {
    const named: [string, Values, Values][] = unit === "percent"
      ? [["", lines.mean!, lines.most!]]
      : Object.entries(lines).map(([name, values]) => [name, values, values]);
    return named.flatMap(([line, values, peaks]) => {
      const known = values.filter((value) => value !== null);
      if (!known.length) return [];
      const most = peaks.reduce<number>((best, value, index) => ((value ?? -1) > (peaks[best] ?? -1) ? index : best), 0);
      const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
      return [{ title, line, mean, most: peaks[most] ?? 0, at: at[most]! * 1000, unit }];
    });
  });
}
