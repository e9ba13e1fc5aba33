import { useState } from "preact/hooks";
import { get, patch, post, remove } from "../api/client";
import type { Delivery, Webhook } from "../api/types";
import type { PageProps } from "../pages";
import { Dialog } from "../parts/dialog";
import { duration } from "../parts/format";
import { More, useListing } from "../parts/listing";
import { useLoad } from "../parts/loading";
import { clicked, useOnce } from "../parts/once";
import { Problem } from "../parts/problem";
import { Status } from "../parts/status";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { toast } from "../parts/toast";
import { clock } from "../parts/when";
import { go, query, setQuery } from "../state/routing";
import { WebhookState } from "./webhooks";
import { Editor } from "./webhooks/editor";
import { hostOf } from "./webhooks/events";

/** One webhook, with the log of all that it was told. */
export default function WebhookPage({ params }: PageProps) {
  const id = params.id!;
  const status = query.value.get("status") ?? "";
  const found = useLoad((signal) => get<Webhook>(`/webhooks/${id}`, {}, signal), [id]);
  const log = useListing<Delivery>(`/webhooks/${id}/deliveries`, { status });
  const [open, setOpen] = useState<"edit" | "remove" | Delivery | null>(null);
  const [failed, setFailed] = useState<unknown>(null);
  const testing = useOnce();
  const webhook = found.data;
  if (!webhook) return <Problem error={found.error} retry={found.reload} />;
  const reload = () => {
    found.reload();
    log.reload();
  };
  const toggle = () => {
    setFailed(null);
    patch(`/webhooks/${id}`, { enabled: !webhook.enabled }).then(reload, setFailed);
  };
  const test = () =>
    testing.act(async (key) => {
      setOpen(await post<Delivery>(`/webhooks/${id}/test`, {}, key));
      reload();
    });
  return (
    <>
      <header class="row">
        <h1>{webhook.description || hostOf(webhook.url)}</h1>
        <WebhookState of={webhook} />
        <span class="push row">
          <button class="small" disabled={testing.isBusy} onClick={clicked(test)}>Send a test</button>
          <button class="small" onClick={toggle}>{webhook.enabled ? "Pause" : "Resume"}</button>
          <button class="small" onClick={() => setOpen("edit")}>Change</button>
          <button class="small danger" onClick={() => setOpen("remove")}>Delete</button>
        </span>
      </header>
      <Problem error={failed ?? testing.error} />
      {webhook.disabled_reason && <p class="problem">The hub disabled it: {webhook.disabled_reason}</p>}
      <p>
        To {hostOf(webhook.url)}, of {webhook.events.join(", ")}. {webhook.failing_since && <>Its receiver has taken nothing since <Ago at={webhook.failing_since} />. </>}
        {webhook.pending > 0 && `${webhook.pending} wait.`}
      </p>
      <header class="row">
        <h2>Deliveries</h2>
        <select class="push" aria-label="Show" value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
          <option value="">all</option>
          <option value="delivered">delivered</option>
          <option value="pending">pending</option>
          <option value="dead">dead</option>
        </select>
        <button class="small" onClick={reload}>Look again</button>
      </header>
      <Problem error={log.error} retry={log.reload} />
      {log.data && !log.rows.length && <p class="dim">Nothing yet. “Send a test” shows at once whether the receiver takes it.</p>}
      {log.rows.length > 0 && (
        <Table
          label="Deliveries"
          rows={log.rows}
          id={(row) => row.id}
          columns={[
            { name: "State", show: (row) => <Status state={row.status} /> },
            { name: "Event", show: (row) => row.event },
            { name: "About", show: (row) => <code>{row.subject || "–"}</code> },
            { name: "When", show: (row) => <Ago at={row.created_at} /> },
            { name: "Answer", show: (row) => answerOf(row) },
            { name: "Tries", class: "number", show: (row) => row.attempt_count },
            { name: "Next try", show: (row) => <Ago at={row.next_attempt_at} none="–" /> },
            { name: "", show: (row) => <button class="small" onClick={() => setOpen(row)}>Details</button> },
          ]}
        />
      )}
      <More of={log} />
      {open === "edit" && <Editor from={webhook} close={() => setOpen(null)} done={() => { setOpen(null); reload(); }} />}
      {open === "remove" && (
        <Dialog title={`Delete ${webhook.description || hostOf(webhook.url)}?`} close={() => setOpen(null)}>
          <p>It is told of nothing more, and its log goes.</p>
          <Problem error={failed} />
          <p class="row">
            <button class="danger" onClick={() => remove(`/webhooks/${id}`).then(() => go("/webhooks"), setFailed)}>Delete it</button>
            <button onClick={() => setOpen(null)}>Cancel</button>
          </p>
        </Dialog>
      )}
      {open !== null && typeof open === "object" && <Details webhookId={id} of={open} close={() => setOpen(null)} done={reload} />}
    </>
  );
}

function answerOf({ attempts: [last] }: Delivery): string {
  if (!last) return "–";
  return `${last.response_status ?? last.error ?? ""} in ${duration(last.duration)}`;
}

function Details({ webhookId, of, close, done }: { webhookId: string; of: Delivery; close: () => void; done: () => void }) {
  const { isBusy, error, act } = useOnce();
  const again = () =>
    act(async (key) => {
      await post(`/webhooks/${webhookId}/deliveries/${of.id}/redeliver`, {}, key);
      toast("It is in line again");
      close();
      done();
    });
  return (
    <Dialog title={of.event} close={close} wide>
      <p class="row">
        <Status state={of.status} /> <code>{of.event_id}</code> {of.reason && <span class="wrong">{of.reason}</span>}
        {of.status !== "pending" && of.event !== "webhook.test" && <button class="small push" disabled={isBusy} onClick={again}>Send again</button>}
      </p>
      <Problem error={error} />
      {of.attempts.map((attempt) => (
        <section key={attempt.number} class="group">
          <p>
            <b>Try {attempt.number}</b> <span class="dim">{clock(Date.parse(attempt.at))}, {duration(attempt.duration)}</span>{" "}
            {attempt.response_status !== null && <>HTTP {attempt.response_status}</>} {attempt.error && <span class="wrong">{attempt.error}</span>}
          </p>
          {attempt.response_excerpt && <pre class="scroll">{attempt.response_excerpt}</pre>}
        </section>
      ))}
      {!of.attempts.length && <p class="dim">It was not tried yet.</p>}
      <h2>What is told</h2>
      <pre class="scroll">{JSON.stringify(of.data, null, 2)}</pre>
    </Dialog>
  );
}
