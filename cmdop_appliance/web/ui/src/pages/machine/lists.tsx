// What happens on the machine: a few of each, and the way to all.

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { list } from "../../api/client";
import type { Command, Id, Terminal, Time } from "../../api/types";
import { duration } from "../../parts/format";
import { paced, useLoad } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { Status } from "../../parts/status";
import { type Column, Table } from "../../parts/table";
import { Ago } from "../../parts/time";
import { useEvents } from "../../state/live";
import { may } from "../../state/me";

const SHOWN = 8;
const PACE_MS = 1000;

interface Section<Row> {
  title: string;
  path: string;
  query: Record<string, string>;
  /** of the events after which it is asked for again */
  prefix: string;
  columns: Column<Row>[];
  rowId: (row: Row) => string;
  /** what to say when there are none */
  none: ComponentChildren;
  /** where all of them are */
  all?: string;
}

function Latest<Row>({ title, path, query, prefix, columns, rowId, none, all }: Section<Row>) {
  const { data, error, reload } = useLoad((signal) => list<Row>(path, { ...query, limit: SHOWN }, signal), [path, query]);
  const soon = useMemo(() => paced(PACE_MS, reload), []);
  useEvents(prefix, ({ data }) => (!data.machine_id || data.machine_id === query.machine_id) && soon());
  return (
    <section class="card" aria-label={title}>
      <header class="row">
        <h2>{title}</h2>
        {all && data && data.meta.total > data.data.length && <a class="push" href={all}>All {data.meta.total}</a>}
      </header>
      <Problem error={error} retry={reload} />
      {data && (data.data.length
        ? <Table label={title} columns={columns} rows={data.data} id={rowId} />
        : <p class="dim">{none}</p>)}
    </section>
  );
}

export function Commands({ id }: { id: Id }) {
  return (
    <Latest<Command>
      title="Commands"
      path="/commands"
      query={{ machine_id: id }}
      prefix="command."
      rowId={(command) => command.id}
      all={`/commands?machine=${id}`}
      none={<>None ran here yet.{may("commands:execute") && " Try uptime in the field above."}</>}
      columns={[
        { name: "Command", class: "wide", show: (command) => <a class="mono" href={`/commands/${command.id}`}>{command.command}</a> },
        { name: "State", show: (command) => <Status state={command.status} text={command.exit_code ? `${command.status}, exit ${command.exit_code}` : command.status} /> },
        { name: "Took", show: (command) => (command.duration === null ? "–" : duration(command.duration)) },
        { name: "When", show: (command) => <Ago at={command.started_at ?? command.created_at} /> },
      ]}
    />
  );
}

export function Terminals({ id }: { id: Id }) {
  return (
    <Latest<Terminal>
      title="Terminals and coding sessions"
      path="/terminals"
      query={{ machine_id: id }}
      prefix="coding_session."
      rowId={(terminal) => terminal.id}
      none="None was opened in the last 7 days. They stay when the page is closed."
      columns={[
        { name: "Name", class: "wide", show: (terminal) => <a href={`/terminals/${terminal.id}`}>{terminal.name}</a> },
        { name: "What", show: (terminal) => terminal.agent ?? terminal.argv?.join(" ").slice(0, 40) ?? "" },
        { name: "State", show: (terminal) => <Status state={terminal.waiting ? "needs you" : terminal.status} /> },
        { name: "When", show: (terminal) => <Ago at={terminal.ended_at ?? terminal.created_at} /> },
      ]}
    />
  );
}

interface ScheduleLine {
  id: Id;
  name: string;
  rule: string;
  enabled: boolean;
  next_run: Time | null;
}

export function Schedules({ id }: { id: Id }) {
  return (
    <Latest<ScheduleLine>
      title="Schedules"
      path="/schedules"
      query={{ machine_id: id }}
      prefix="schedule."
      rowId={(schedule) => schedule.id}
      none={<>No schedule runs here. <a href="/schedules?new=1">New schedule</a></>}
      columns={[
        { name: "Name", class: "wide", show: (schedule) => <a href={`/schedules/${schedule.id}`}>{schedule.name}</a> },
        { name: "Rule", show: (schedule) => schedule.rule },
        { name: "State", show: (schedule) => <Status state={schedule.enabled ? "enabled" : "paused"} /> },
        { name: "Next", show: (schedule) => <Ago at={schedule.next_run} none="–" /> },
      ]}
    />
  );
}

interface SessionLine {
  session_id: Id;
  status: string;
  connected_at: Time | null;
  last_heartbeat_at: Time | null;
}

const SESSION_STATES: Record<string, [string, string]> = {
  PENDING: ["starting", "joining"],
  CONNECTED: ["online", "connected"],
  BACKGROUND: ["online", "connected, kept quiet"],
  GRACE_PERIOD: ["reconnecting", "reconnecting"],
  DISCONNECTED: ["offline", "ended"],
  ERROR: ["failed", "broke the protocol"],
};

export function Sessions({ id }: { id: Id }) {
  return (
    <Latest<SessionLine>
      title="Connections"
      path="/sessions"
      query={{ machine_id: id }}
      prefix="session."
      rowId={(session) => session.session_id}
      none="It has not connected yet."
      columns={[
        { name: "State", class: "wide", show: ({ status }) => <Status state={SESSION_STATES[status]?.[0] ?? "offline"} text={SESSION_STATES[status]?.[1] ?? status} /> },
        { name: "Since", show: (session) => <Ago at={session.connected_at} none="–" /> },
        { name: "Last heard of", show: (session) => <Ago at={session.last_heartbeat_at} none="–" /> },
      ]}
    />
  );
}
