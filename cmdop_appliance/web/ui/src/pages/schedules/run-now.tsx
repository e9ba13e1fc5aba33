import { ApiError, post, said } from "../../api/client";
import type { Id, Schedule } from "../../api/types";
import { clicked, useOnce } from "../../parts/once";
import { go } from "../../state/routing";

/** Start a schedule's command now; on one machine its output is shown. */
export function RunNow({ schedule }: { schedule: Schedule }) {
  const { isBusy, error, act } = useOnce();
  const run = () =>
    act(async (key) => {
      const started = await post<{ command_id: Id; commands: Record<Id, Id> }>(`/schedules/${schedule.id}/run`, {}, key);
      const isAlone = Object.keys(started.commands).length === 1;
      go(isAlone ? `/commands/${started.command_id}` : `/schedules/${schedule.id}`);
    });
  return (
    <>
      <button class="small" disabled={isBusy} onClick={clicked(run)}>Run now</button>
      {error != null && (
        <small class="wrong" role="alert">
          {error instanceof ApiError && error.code === "session_not_active" ? "The machine is not connected." : said(error)}
        </small>
      )}
    </>
  );
}
