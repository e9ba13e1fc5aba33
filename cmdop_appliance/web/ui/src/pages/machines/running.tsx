import { useMemo } from "preact/hooks";
import { list } from "../../api/client";
import { counted } from "../../parts/format";
import { paced, useLoad } from "../../parts/loading";
import { useEvents } from "../../state/live";

const OPEN = "running,pending";
const PACE_MS = 1000;

/** How many commands have not ended; nothing when there are none. */
export function RunningNow() {
  const { data: total, reload } = useLoad(async (signal) => (await list("/commands", { status: OPEN, limit: 1 }, signal)).meta.total, []);
  const soon = useMemo(() => paced(PACE_MS, reload), []);
  useEvents("command.", soon);
  if (!total) return null;
  return <a class="running" href={`/commands?status=${OPEN}`}><span aria-hidden="true">◐</span> Running now: {counted(total, "command")}</a>;
}
