import { useEffect } from "preact/hooks";
import type { Id, Load, Machine } from "../../api/types";
import { bytes, duration } from "../../parts/format";
import { Bar, MachineState, MEASURES } from "../../parts/machine";
import { lineOf, ratesOf } from "../../parts/rates";
import { hubVersion } from "../../state/live";
import { samplesOf } from "../../state/machines";
import { may } from "../../state/me";
import { setQuery } from "../../state/routing";
import { withTag } from "./order";
import { pastOf, recall } from "./past";
import { useTurn } from "./turns";

const LINE_MS = 15 * 60_000;

export function Row({ machine, index, top, text }: { machine: Machine; index: number; top: number; text: string }) {
  const isHere = machine.status === "online";
  const isWhole = useTurn();
  return (
    <tr
      role="row"
      aria-rowindex={index + 2}
      class={machine.session_status === "GRACE_PERIOD" ? "stale" : undefined}
      style={{ top: `${top}px` }}
    >
      <td role="cell" class="state"><MachineState machine={machine} /></td>
      <td role="cell" class="name">
        <a href={`/machines/${machine.id}`}>{machine.name}</a>
        {isWhole && <Tags machine={machine} text={text} />}
      </td>
      {isWhole && (
        <>
          {isHere ? <LiveCells id={machine.id} /> : <NoCells />}
          <td role="cell" class="agent">{machine.agent_version}</td>
          <td role="cell" class="actions"><Actions machine={machine} isHere={isHere} /></td>
        </>
      )}
    </tr>
  );
}

function Tags({ machine, text }: { machine: Machine; text: string }) {
  return (
    <span class="tags">
      <Skew version={machine.agent_version} />
      {machine.hostname !== machine.name && <small class="dim">{machine.hostname}</small>}
      {machine.tags.map((tag) => (
        <button key={tag} type="button" class="tag" title={`Only those with the tag ${tag}`} onClick={() => setQuery({ q: withTag(text, tag) })}>
          {tag}
        </button>
      ))}
    </span>
  );
}

/** What each sample changes. */
function LiveCells({ id }: { id: Id }) {
  const samples = samplesOf(id).value;
  const load = samples.at(-1);
  const rates = ratesOf(samples) ?? pastOf(id).value.rates;
  return (
    <>
      {MEASURES.map(({ name, of }) => (
        <td role="cell" key={name} class="load" data-label={name}>{load ? <Bar percent={of(load)} /> : <Unknown />}</td>
      ))}
      <td role="cell" class="trend"><Line id={id} samples={samples} /></td>
      <td role="cell" class="network" data-label="Network">
        {rates
          ? <>↓ {bytes(rates.rx)}/s<br />↑ {bytes(rates.tx)}/s</>
          : <Unknown />}
      </td>
      <td role="cell" class="uptime" data-label="Up for">{load ? rough(load.uptime_seconds) : <Unknown />}</td>
    </>
  );
}

function NoCells() {
  return (
    <>
      {MEASURES.map(({ name }) => <td role="cell" key={name} class="load" data-label={name}><Unknown /></td>)}
      <td role="cell" class="trend" />
      <td role="cell" class="network" data-label="Network"><Unknown /></td>
      <td role="cell" class="uptime" data-label="Up for"><Unknown /></td>
    </>
  );
}

/** Its largest unit says enough. */
const rough = (seconds: number) => duration(seconds * 1000).split(" ").slice(0, 2).join(" ");

const Unknown = () => <span class="dim">–</span>;

/** CPU of the last quarter of an hour: what the hub kept of it, then what came since. */
function Line({ id, samples }: { id: Id; samples: readonly Load[] }) {
  useEffect(() => recall(id), [id]);
  const first = samples[0] ? Date.parse(samples[0].at) : Infinity;
  const moments = [
    ...pastOf(id).value.moments.filter(({ at }) => at < first),
    ...samples.map((load) => ({ at: Date.parse(load.at), percent: load.cpu_percent })),
  ];
  return (
    <svg viewBox="0 -4 100 108" preserveAspectRatio="none" aria-hidden="true">
      <polyline points={lineOf(moments, LINE_MS)} />
    </svg>
  );
}

/** That its agent is not of the hub's version. */
function Skew({ version }: { version: string }) {
  const hub = hubVersion.value;
  if (!hub || version === hub) return null;
  return <small class="tag wait" title={`The hub is ${hub}`}>agent {version} ≠ {hub}</small>;
}

function Actions({ machine, isHere }: { machine: Machine; isHere: boolean }) {
  if (!may("commands:execute")) return null;
  return (
    <>
      {isHere && <a class="button small" href={`/terminals?new=1&machine=${machine.id}`} aria-label={`Terminal on ${machine.name}`}>Terminal</a>}
      <a class="button small" href={`/run?machines=${machine.id}`} aria-label={`Run on ${machine.name}`}>Run</a>
    </>
  );
}
