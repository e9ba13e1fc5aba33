// The websocket by which the hub says what happens. It comes back by itself, behind the last event.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { get, isSignedIn } from "../api/client";
import type { HubEvent, Load } from "../api/types";
import { leave, openSocket, pauseAfter, SILENT_MS } from "./sockets";

export type Link =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "away"; since: number; retryAt: number };

/** How the page is connected. Times are ms since 1970. */
export const link = signal<Link>({ state: "connecting" });
/** Grows whenever something may have been missed: what a page shows is then asked for again. */
export const epoch = signal(0);
export const hubVersion = signal("");
/** The hub runs another version than the one that this page came from. */
export const isOutdated = signal(false);

const LAST_RETRY_MS = 15_000;
const PATIENCE_MS = 2000;

type Message =
  | { type: "hello"; seq: number; version: string }
  | { type: "event"; event: HubEvent }
  | { type: "gap"; from: number; to: number }
  | { type: "load"; machines: Load[] };

const listeners = new Set<(event: HubEvent) => void>();
const loadListeners = new Set<(loads: Load[]) => void>();

let isWanted = false;
let socket: WebSocket | null = null;
let seen: number | null = null;
let failures = 0;
let timer = 0;
let silence = 0;
let isAwaited = false; // nothing was asked for yet

/** Be told of every event whose type begins with `prefix`; gives back how to stop. */
export function onEvent(prefix: string, listener: (event: HubEvent) => void): () => void {
  const filtered = (event: HubEvent) => {
    if (event.type.startsWith(prefix)) listener(event);
  };
  listeners.add(filtered);
  return () => void listeners.delete(filtered);
}

/** The same, as long as a component is there. */
export function useEvents(prefix: string, listener: (event: HubEvent) => void): void {
  const latest = useRef(listener);
  latest.current = listener;
  useEffect(() => onEvent(prefix, (event) => latest.current(event)), [prefix]);
}

export function onLoads(listener: (loads: Load[]) => void): () => void {
  loadListeners.add(listener);
  return () => void loadListeners.delete(listener);
}

/**
 * Connect, and stay so until `disconnect`. Returns when the hub tells of everything from now on, so
 * that nothing is missed by what is asked for afterwards; or when it does not, for now.
 */
export async function begin(): Promise<void> {
  isWanted = isAwaited = true;
  let isOver = () => {};
  const answered = new Promise<void>((resolve) => {
    isOver = resolve;
    setTimeout(resolve, PATIENCE_MS);
  });
  const stop = link.subscribe(({ state }) => state !== "connecting" && isOver());
  connect();
  await answered;
  isAwaited = false;
  stop();
}

function connect(): void {
  if (socket || !isWanted) return;
  clearTimeout(timer);
  const opened = openSocket("/api/v1/live", ["cmdop.live.v1"]);
  socket = opened;
  opened.onopen = () => opened.send(JSON.stringify({ type: "start", after: seen }));
  opened.onmessage = ({ data }) => {
    if (socket !== opened) return;
    watch(opened);
    hear(JSON.parse(data as string) as Message);
  };
  opened.onclose = ({ code }) => lose(opened, code);
  watch(opened);
}

/** A connection that is dead says nothing of that. */
function watch(opened: WebSocket): void {
  clearTimeout(silence);
  silence = window.setTimeout(() => {
    lose(opened);
    opened.close();
  }, SILENT_MS);
}

function lose(lost: WebSocket, code?: number): void {
  if (socket !== lost) return;
  socket = null;
  if (code === 4401) {
    disconnect();
    isSignedIn.value = false;
  } else if (isWanted) {
    retryLater();
    void recogniseAgain();
  }
}

/** Try now instead of waiting. */
export function retryNow(): void {
  clearTimeout(timer);
  if (link.value.state === "away") link.value = { state: "connecting" };
  connect();
}

export function disconnect(): void {
  isWanted = false;
  clearTimeout(timer);
  const open = socket;
  socket = null;
  leave(open);
  seen = null;
  link.value = { state: "connecting" };
}

/** Find out whether the sign-in has ended: why a socket never opened is not told to pages. */
async function recogniseAgain(): Promise<void> {
  await get("/auth/me").catch(() => {}); // 401 is noted by whoever asks
}

function retryLater(): void {
  const wait = pauseAfter(failures++, LAST_RETRY_MS);
  const since = link.value.state === "away" ? link.value.since : Date.now();
  link.value = { state: "away", since, retryAt: Date.now() + wait };
  timer = window.setTimeout(connect, wait);
}

function hear(message: Message): void {
  switch (message.type) {
    case "hello":
      if (hubVersion.value && message.version !== hubVersion.value) isOutdated.value = true;
      hubVersion.value = message.version;
      seen = message.seq;
      failures = 0;
      link.value = { state: "live" };
      // What was asked for before is from before, or has failed.
      if (!isAwaited) epoch.value++;
      break;
    case "event":
      seen = message.event.seq;
      for (const listener of listeners) listener(message.event);
      break;
    case "gap":
      seen = message.to;
      epoch.value++;
      break;
    case "load":
      for (const listener of loadListeners) listener(message.machines);
  }
}
