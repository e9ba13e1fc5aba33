import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import type { Metrics, Point } from "../../api/types";
import { chartsOf, rangeOf, summaryOf } from "./series";

const at = (minute: number) => new Date(Date.UTC(2026, 0, 1, 0, minute)).toISOString();

const point = (minute: number, given: Partial<Point> = {}): Point => ({
  at: at(minute), cpu_percent: 10, cpu_percent_max: 20, memory_percent: 0, memory_percent_max: 0, disk_percent: 0,
  disk_percent_max: 0, network_rx_bytes: 6000, network_tx_bytes: null, ...given,
});

const metrics: Metrics = {
  from: new Date(Date.UTC(2026, 0, 1, 0, 0, 30)).toISOString(),
  to: at(4),
  step: 60_000,
  points: [point(0), point(1), point(4, { cpu_percent: 40, cpu_percent_max: 95 })],
};

test("a step without samples is a gap, and one that began before the time is left out", () => {
  const [cpu] = chartsOf(metrics);
  deepEqual(cpu!.series.at.map((second) => (second * 1000 - Date.parse(at(0))) / 60_000), [1, 2, 3, 4]);
  deepEqual(cpu!.series.lines.mean, [10, null, null, 40]);
});

test("bytes of a step are shown a second, and unknown where nobody knows them", () => {
  const network = chartsOf(metrics)[3]!;
  deepEqual(network.series.lines, { in: [100, null, null, 100], out: [null, null, null, null] });
});

test("the summary has the mean of what is known and the highest peak with its time", () => {
  const [cpu] = summaryOf(chartsOf(metrics));
  deepEqual(cpu, { title: "CPU", line: "", mean: 25, most: 95, at: Date.parse(at(4)), unit: "percent" });
  deepEqual(summaryOf(chartsOf(metrics)).map(({ title, line }) => `${title} ${line}`.trim()), ["CPU", "Memory", "Disk", "Network in"]);
});

test("a range that the address makes up is the hour", () => {
  deepEqual([rangeOf("7d"), rangeOf("toString"), rangeOf(null)], ["7d", "1h", "1h"]);
  equal(summaryOf(chartsOf({ ...metrics, points: [] })).length, 0);
});
