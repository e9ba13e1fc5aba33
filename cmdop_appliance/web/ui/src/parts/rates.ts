// What two samples of a machine say together.

import type { Load, Metrics, Point } from "../api/types";

export interface Rates {
  /** bytes a second */
  rx: number;
  tx: number;
}

/** How fast bytes came and went between the last two samples; null: nobody knows. */
export function ratesOf(samples: readonly Load[]): Rates | null {
  const [before, now] = samples.slice(-2);
  if (!before || !now) return null;
  const seconds = (Date.parse(now.at) - Date.parse(before.at)) / 1000;
  const rx = now.network_rx_bytes - before.network_rx_bytes;
  const tx = now.network_tx_bytes - before.network_tx_bytes;
  // The counters run since the machine's boot, and fall when one of its interfaces goes.
  if (seconds <= 0 || rx < 0 || tx < 0) return null;
  return { rx: rx / seconds, tx: tx / seconds };
}

/** The same of what the hub kept: of the newest step that is over and in which bytes were counted. */
export function ratesOfSteps({ points, step, to }: Metrics): Rates | null {
  const isOver = ({ at }: Point) => Date.parse(at) + step <= Date.parse(to);
  const last = points.findLast((point) => point.network_rx_bytes !== null && isOver(point));
  const { network_rx_bytes: rx, network_tx_bytes: tx } = last ?? {};
  return rx == null || tx == null ? null : { rx: (rx * 1000) / step, tx: (tx * 1000) / step };
}

export interface Moment {
  /** ms since 1970 */
  at: number;
  percent: number;
}

/** The points of an SVG line 100 wide and 100 high: the last `span_ms` before the newest moment. */
export function lineOf(moments: readonly Moment[], span_ms: number): string {
  const end = moments.at(-1)?.at ?? 0;
  return moments
    .filter(({ at }) => at >= end - span_ms)
    .map(({ at, percent }) => `${round(100 - ((end - at) / span_ms) * 100)},${round(100 - Math.min(100, percent))}`)
    .join(" ");
}

const round = (value: number) => Math.round(value * 10) / 10;
