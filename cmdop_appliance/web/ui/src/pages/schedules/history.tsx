import { list } from "../../api/client";
import type { Run } from "../../api/types";
import { duration } from "../../parts/format";
import { useLoad } from "../../parts/loading";
import { clock } from "../../parts/when";

const KINDS: Record<string, string> = {
  completed: "good", failed: "bad", timeout: "bad", lost: "bad", cancelled: "off", expired: "wait", missed: "wait", skipped: "wait", running: "busy", pending: "busy", started: "busy",
};
const BARS = 30;

/** The last runs as bars, the newest at the right: taller ones took longer, colours and titles say how they ended. */
export function Bars({ runs }: { runs: readonly Run[] }) {
  const shown = runs.slice(0, BARS).reverse();
  const longest = Math.max(1, ...shown.map((run) => run.duration ?? 0));
  const failed = shown.filter((run) => KINDS[run.status] === "bad").length;
  return (
    <span class="bars" role="img" aria-label={shown.length ? `${shown.length} runs, ${failed} failed` : "no runs yet"}>
      {shown.map((run) => (
        <i
          key={run.id}
          class={KINDS[run.status] ?? "off"}
          style={{ height: `${30 + (70 * (run.duration ?? 0)) / longest}%` }}
          title={`${run.status}, ${clock(Date.parse(run.scheduled_at ?? run.started_at ?? ""))}${run.duration === null ? "" : `, ${duration(run.duration)}`}`}
        />
      ))}
    </span>
  );
}

/** The bars of a schedule in a list. `turn`: look again. */
export function RecentBars({ id, turn }: { id: string; turn: unknown }) {
  const found = useLoad(async (signal) => (await list<Run>(`/schedules/${id}/history`, { limit: BARS }, signal)).data, [id, turn]);
  return <Bars runs={found.data ?? []} />;
}
