import { signal } from "@preact/signals";
import type { Time } from "../api/types";
import { clock, distance } from "./when";

/** Now, in ms since 1970; moves once a second while the page is seen. */
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);

/** A time as its distance from now; the whole of it is in the title. */
export function Ago({ at, none = "never" }: { at: Time | null; none?: string }) {
  if (!at) return <span class="dim">{none}</span>;
  const ms = Date.parse(at);
  return <time dateTime={at} title={clock(ms)}>{distance(ms, now.value)}</time>;
}
