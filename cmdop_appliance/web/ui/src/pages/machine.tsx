// One machine: what it is, how it is and was, and what happens there.

import { useEffect, useMemo } from "preact/hooks";
import { ApiError, get } from "../api/client";
import type { MachineDetail } from "../api/types";
import { bytes, counted, duration } from "../parts/format";
import { CopyButton } from "../parts/copy";
import { Bar, MEASURES } from "../parts/machine";
import { Empty } from "../parts/empty";
import { paced, useLoad } from "../parts/loading";
import { Problem } from "../parts/problem";
import { ratesOf } from "../parts/rates";
import { Ago } from "../parts/time";
import { useEvents } from "../state/live";
import { samplesOf, take } from "../state/machines";
import { may } from "../state/me";
import { Head } from "./machine/head";
import { History } from "./machine/history";
import { Commands, Schedules, Sessions, Terminals } from "./machine/lists";

const PACE_MS = 500;

export default function MachinePage({ params }: { params: Record<string, string> }) {
  const id = params.id!;
  const { data: machine, error, reload } = useLoad((signal) => get<MachineDetail>(`/machines/${id}`, {}, signal), [id]);
  const soon = useMemo(() => paced(PACE_MS, reload), [id]);
  useEvents("machine.", ({ data }) => data.machine_id === id && soon());
  useEvents("session.", ({ data }) => data.machine_id === id && soon());
  useEffect(() => {
    if (machine?.load) take({ ...machine.load, id });
    if (machine) document.title = `${machine.name} · cmdop`;
  }, [machine]);
  if (error instanceof ApiError && error.status === 404) {
    return <Empty title="This machine is not here"><p>It was removed, or your key may not see it. <a href="/">All machines</a></p></Empty>;
  }
  if (!machine) return <Problem error={error} retry={reload} />;
  return (
    <>
      <Head machine={machine} />
      <Problem error={error} retry={reload} />
      <div class="machine-page">
        <Now machine={machine} />
        <Facts machine={machine} />
        <History id={id} name={machine.name} />
        {may("sessions:read") && <Commands id={id} />}
        {may("sessions:read") && <Terminals id={id} />}
        {may("schedules:read") && <Schedules id={id} />}
        {may("sessions:read") && <Sessions id={id} />}
      </div>
    </>
  );
}

/** The newest sample; it redraws alone. */
function Now({ machine }: { machine: MachineDetail }) {
  const samples = samplesOf(machine.id).value;
  const load = samples.at(-1);
  const rates = ratesOf(samples);
  const isHere = machine.status === "online";
  return (
    <section class="card" aria-labelledby="now">
      <h2 id="now">Now</h2>
      {!isHere && <p class="dim">Not online: nothing is known of now. Last heard of <Ago at={machine.last_seen} />.</p>}
      {isHere && !load && <p class="dim">The first sample comes within seconds.</p>}
      {isHere && load && (
        <dl class="facts">
          {MEASURES.map(({ name, of }) => <div key={name}><dt>{name}</dt><dd><Bar percent={of(load)} /></dd></div>)}
          <div><dt>Network</dt><dd>{rates ? `${bytes(rates.rx)}/s in, ${bytes(rates.tx)}/s out` : "known with the next sample"}</dd></div>
          <div><dt>Up for</dt><dd>{duration(load.uptime_seconds * 1000)}</dd></div>
          <div><dt>Sampled</dt><dd><Ago at={load.at} /></dd></div>
        </dl>
      )}
    </section>
  );
}

function Facts({ machine: { id, facts, ip, created_at } }: { machine: MachineDetail }) {
  const rows: [string, preact.ComponentChildren][] = [
    ["System", `${facts.os}, ${facts.kernel}`],
    ["Hardware", `${facts.arch}, ${counted(facts.cpu_cores, "core")}, ${bytes(facts.memory_bytes)} memory`],
    ["Host name", facts.hostname],
    ["Address", ip],
    ["Agent", `${facts.agent_version}, runs as ${facts.user} (${facts.home})`],
    ["Joined", <Ago at={created_at} />],
    ["Id", <span class="row"><code>{id}</code><CopyButton text={id} /></span>],
  ];
  return (
    <section class="card" aria-labelledby="facts">
      <h2 id="facts">Facts</h2>
      <dl class="facts">{rows.map(([name, what]) => <div key={name}><dt>{name}</dt><dd>{what}</dd></div>)}</dl>
    </section>
  );
}
