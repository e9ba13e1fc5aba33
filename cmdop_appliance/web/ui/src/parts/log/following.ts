// The output of a command as it comes, over as many connections as that takes.

import { type Signal, signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { address, ApiError, Away, isSignedIn } from "../../api/client";
import type { Command, Id } from "../../api/types";
import { EventReader, type Sent } from "./sse";
import { LogText } from "./text";

const FIRST_PAUSE_MS = 500;
const LAST_PAUSE_MS = 10_000;
/** What is worked on without a pause for the page. */
const SLICE_MS = 12;

export interface Following {
  log: LogText;
  /** The record, once the command has ended. */
  end: Signal<Command | null>;
  /** Away: it is tried again; others are final. */
  error: Signal<unknown>;
}

/** Behind what was heard last. */
interface Place {
  seen: string;
}

/** Follow a command for as long as the component is there. */
export function useFollowing(id: Id): Following {
  const following = useMemo(() => ({ log: new LogText(), end: signal(null), error: signal(null) }) as Following, [id]);
  useEffect(() => followWhileVisible(id, following), [id]);
  return following;
}

/**
 * Gives back how to stop. A page that nobody sees holds no connection: all tabs of a browser share six
 * to one hub, and behind those that are held nothing else gets through.
 */
export function followWhileVisible(id: Id, following: Following): () => void {
  const place: Place = { seen: "" };
  let stop = new AbortController();
  const turn = () => {
    stop.abort();
    stop = new AbortController();
    if (!document.hidden) void follow(id, following, place, stop.signal);
  };
  turn();
  document.addEventListener("visibilitychange", turn);
  return () => {
    document.removeEventListener("visibilitychange", turn);
    stop.abort();
  };
}

async function follow(id: Id, following: Following, place: Place, stop: AbortSignal): Promise<void> {
  const { end, error, log } = following;
  let pause = FIRST_PAUSE_MS;
  const hear = ({ event, data, id: position }: Sent) => {
    place.seen = position;
    pause = FIRST_PAUSE_MS;
    const said = JSON.parse(data);
    if (event === "end") end.value = said as Command;
    else if (event === "gap") log.gap(said.stream, said.to - said.from);
    else if (event === "stdout" || event === "stderr") log.append(event, decoded(said.data));
  };
  while (!end.value && !stop.aborted) {
    try {
      await listen(id, place.seen, hear, () => (error.value = null), stop);
    } catch (problem) {
      if (stop.aborted) return;
      error.value = problem;
      if (!(problem instanceof Away)) return;
    }
    if (end.value || stop.aborted) return;
    await pauseFor(pause);
    pause = Math.min(2 * pause, LAST_PAUSE_MS);
  }
}

/** One connection. Throws Away where another may do better, ApiError where none will. */
async function listen(id: Id, seen: string, hear: (sent: Sent) => void, answered: () => void, stop: AbortSignal): Promise<void> {
  const response = await fetch(address(`/commands/${id}/stream`), {
    headers: { Accept: "text/event-stream", ...(seen && { "Last-Event-ID": seen }) },
    cache: "no-store",
    credentials: "same-origin",
    signal: stop,
  }).catch(away);
  if (!response.ok) throw await refusal(response);
  answered();
  const chunks = response.body!.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>).getReader();
  const events = new EventReader();
  let since = performance.now();
  while (!stop.aborted) {
    const { value, done } = await chunks.read().catch(away);
    if (done || stop.aborted) return;
    for (const sent of events.read(value)) {
      hear(sent);
      if (performance.now() - since < SLICE_MS) continue;
      await pauseFor(0);
      if (stop.aborted) return;
      since = performance.now();
    }
  }
}

function away(): never {
  throw new Away("The hub does not answer; the output goes on when it does.");
}

async function refusal(response: Response): Promise<Error> {
  if (response.status === 401) isSignedIn.value = false;
  const answer = await response.json().catch(() => null);
  if (!answer || response.status >= 500 || response.status === 429) {
    return new Away(`The hub answers HTTP ${response.status}; it is asked again.`);
  }
  return new ApiError(response.status, answer.error?.code ?? "", answer.error?.message ?? `HTTP ${response.status}`);
}

const pauseFor = (ms: number) => new Promise<void>((resume) => setTimeout(resume, ms));

function decoded(base64: string): Uint8Array {
  const text = atob(base64);
  const data = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) data[at] = text.charCodeAt(at);
  return data;
}
