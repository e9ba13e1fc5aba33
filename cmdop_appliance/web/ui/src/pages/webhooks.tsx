import type { Webhook } from "../api/types";
import { Empty } from "../parts/empty";
import { More, useListing } from "../parts/listing";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { useEvents } from "../state/live";
import { go, query, setQuery } from "../state/routing";
import { Editor } from "./webhooks/editor";
import { hostOf, PRESETS } from "./webhooks/events";

/** Who is told of events. */
export default function Webhooks() {
  const found = useListing<Webhook>("/webhooks");
  useEvents("webhook.", found.reload);
  return (
    <>
      <header class="row">
        <h1>Webhooks</h1>
        <button class="main push" onClick={() => setQuery({ new: "1" })}>New webhook</button>
      </header>
      <Problem error={found.error} retry={found.reload} />
      {found.data && !found.rows.length && (
        <Empty title="No webhooks">
          <p>A webhook tells your phone (ntfy, Gotify, Discord, Slack, Telegram) or a program of yours what happens: that a schedule failed, that a machine is gone, that a coding session waits for you.</p>
        </Empty>
      )}
      {found.rows.length > 0 && (
        <Table
          label="Webhooks"
          rows={found.rows}
          id={(row) => row.id}
          columns={[
            { name: "State", show: (row) => <WebhookState of={row} /> },
            { name: "To", show: (row) => <a href={`/webhooks/${row.id}`}>{row.description || hostOf(row.url)}</a> },
            { name: "Kind", show: (row) => PRESETS[row.preset ?? ""]?.name ?? row.preset },
            { name: "Events", show: (row) => <span title={row.events.join(", ")}>{row.events.slice(0, 2).join(", ")}{row.events.length > 2 && ` and ${row.events.length - 2} more`}</span> },
            { name: "Waiting", class: "number", show: (row) => row.pending },
            { name: "Last taken", show: (row) => <Ago at={row.last_success_at} /> },
          ]}
        />
      )}
      <More of={found} />
      {query.value.get("new") !== null && (
        <Editor from={null} close={() => setQuery({ new: null })} done={(id) => go(`/webhooks/${id}`)} />
      )}
    </>
  );
}

export function WebhookState({ of }: { of: Webhook }) {
  if (!of.enabled) return <Status state={of.disabled_reason ? "disabled" : "paused"} kind={of.disabled_reason ? "bad" : "off"} />;
  return <Status state={of.failing_since ? "failing" : "active"} kind={of.failing_since ? "bad" : "good"} />;
}
