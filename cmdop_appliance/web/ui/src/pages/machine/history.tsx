// How loaded the machine was: graphs, and the same in words.

import { useEffect, useMemo } from "preact/hooks";
import { get } from "../../api/client";
import type { Id, Metrics } from "../../api/types";
import { bytes } from "../../parts/format";
import { clock } from "../../parts/when";
import { useLoad } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { query } from "../../state/routing";
import { Graph } from "./graph";
import { chartsOf, RANGE_NAMES, type Range, rangeOf, RANGES, type Summary, summaryOf } from "./series";

const STEP_MS = 60_000; // no new point comes sooner

export function History({ id, name }: { id: Id; name: string }) {
  const range = rangeOf(query.value.get("range"));
  const { data, error, reload } = useLoad((signal) => {
    const now = Date.now();
    const from = new Date(now - RANGES[range]).toISOString();
    return get<Metrics>(`/machines/${id}/metrics`, { from }, signal);
  }, [id, range]);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && reload(), STEP_MS);
    return () => clearInterval(timer);
  }, []);
  const charts = useMemo(() => data && chartsOf(data), [data]);
  return (
    <section class="load-history" aria-labelledby="history">
      <header class="row">
        <h2 id="history">Load</h2>
        <nav class="row ranges" aria-label="Time">
          {(Object.keys(RANGES) as Range[]).map((each) => (
            <a key={each} class="button small" href={`/machines/${id}?range=${each}`} aria-current={each === range ? "true" : undefined}>
              {RANGE_NAMES[each]}
            </a>
          ))}
        </nav>
      </header>
      <Problem error={error} retry={reload} />
      {charts && (data!.points.length
        ? (
          <>
            <div class="graphs">{charts.map((chart) => <Graph key={`${range} ${chart.title}`} chart={chart} />)}</div>
            <InWords summary={summaryOf(charts)} caption={`The load of ${name} in the last ${RANGE_NAMES[range]}`} />
          </>
        )
        : <p class="empty">No sample in the last {RANGE_NAMES[range]}. They come every 15 s while the machine is online.</p>)}
    </section>
  );
}

function InWords({ summary, caption }: { summary: Summary[]; caption: string }) {
  return (
    <details class="in-words">
      <summary>In words</summary>
      <table>
        <caption class="spoken">{caption}</caption>
        <thead><tr><th scope="col">What</th><th scope="col">Mean</th><th scope="col">Most</th><th scope="col">At</th></tr></thead>
        <tbody>
          {summary.map(({ title, line, mean, most, at, unit }) => (
            <tr key={title + line}>
              <th scope="row">{title} {line}</th>
              <td data-label="Mean">{value(mean, unit)}</td>
              <td data-label="Most">{value(most, unit)}</td>
              <td data-label="At">{clock(at).slice(0, 16)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

const value = (amount: number, unit: Summary["unit"]) => (unit === "percent" ? `${amount.toFixed(1)} %` : `${bytes(amount)}/s`);
