// What stands around every page once the first paint is done: the banner when the hub is away, what
// lies over a page, keys, and where the keyboard and the navigation are after a change of the page.

import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { type Over, PAGES } from "../pages";
import { epoch, isOutdated, link, retryNow } from "../state/live";
import { path } from "../state/routing";
import { listenToKeys } from "./keyboard";
import { Palette } from "./palette";
import { Shortcuts } from "./shortcuts";
import { now } from "./time";
import { Toasts } from "./toast";
import { clock, distance } from "./when";

export default function Around({ over }: { over: Signal<Over> }) {
  useEffect(() => listenToKeys((part) => (over.value = part)), []);
  useEffect(() => atRest(loadPages), [epoch.value]);
  useArrival();
  const close = () => (over.value = null);
  return (
    <>
      <Banner />
      <Toasts />
      {over.value === "palette" && <Palette close={close} />}
      {over.value === "shortcuts" && <Shortcuts close={close} />}
    </>
  );
}

const REST_MS = 3000;

function atRest(act: () => void): void {
  if ("requestIdleCallback" in globalThis) requestIdleCallback(act, { timeout: REST_MS });
  else setTimeout(act, REST_MS);
}

/** So that every page opens while the hub is away; what did not come is tried again with the hub. */
async function loadPages(): Promise<void> {
  for (const { load } of PAGES) await load().catch(() => {});
}

/** Show in the navigation where one is, and put the keyboard there if the page before had it. */
function useArrival(): void {
  const before = useRef(path.value);
  useEffect(() => {
    const side = document.querySelector<HTMLElement>(".side")!;
    const current = side.querySelector<HTMLElement>("[aria-current]");
    if (current) side.scrollLeft = current.offsetLeft - (side.clientWidth - current.offsetWidth) / 2;
    if (before.current !== path.value && document.activeElement === document.body) {
      document.getElementById("content")!.focus({ preventScroll: true });
    }
    before.current = path.value;
  }, [path.value]);
}

function Banner() {
  const state = link.value;
  if (isOutdated.value) {
    return (
      <p class="banner" role="status">
        The hub runs another version now. <button class="small" onClick={() => location.reload()}>Load the page again</button>
      </p>
    );
  }
  if (state.state !== "away") return null;
  return (
    <p class="banner" role="status">
      The hub is away since {clock(state.since).slice(11)}; what you see is from then. Next try {distance(state.retryAt, now.value)}.{" "}
      <button class="small" onClick={retryNow}>Retry now</button>
    </p>
  );
}
