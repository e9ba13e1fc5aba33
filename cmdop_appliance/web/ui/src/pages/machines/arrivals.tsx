import { duration } from "../../parts/format";
import { may } from "../../state/me";
import { type Joined, joined } from "./joining";

/** Who has come so far, and that more may. */
export function Arrivals({ isWaiting }: { isWaiting: boolean }) {
  return (
    <div class="arrivals" aria-live="polite">
      {joined.value.map((machine) => <Arrival key={machine.id} machine={machine} />)}
      {joined.value.some(({ took }) => took !== null) && (
        <p class="dim">
          An agent runs until its shell closes or its machine restarts: <a href="/help/agents#as-a-service" target="_blank">how to keep it</a>
        </p>
      )}
      {isWaiting && <p class="busy"><span class="turning" aria-hidden="true">◐</span> Waiting for {joined.value.length ? "another" : "a"} machine…</p>}
    </div>
  );
}

function Arrival({ machine: { id, name, took } }: { machine: Joined }) {
  if (took === null) return <p class="busy"><span aria-hidden="true">◐</span> {name} is joining…</p>;
  return (
    <p class="row">
      <span class="good"><span aria-hidden="true">✓</span> {name} has joined ({seconds(took)})</span>
      {may("commands:execute") && (
        <>
          <a class="button small" href={`/terminals?new=1&machine=${id}`}>Open terminal</a>
          <a class="button small" href={`/run?machines=${id}`}>Run a command</a>
        </>
      )}
      <a class="button small" href={`/machines/${id}`}>Look at it</a>
    </p>
  );
}

const seconds = (ms: number) => (ms < 10_000 ? `${Math.max(1, Math.round(ms / 1000))} s` : duration(ms));
