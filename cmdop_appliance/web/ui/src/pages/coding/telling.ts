// Notifications of the browser's, for whoever asked for them.

import { signal } from "@preact/signals";
import type { HubEvent } from "../../api/types";
import { toast } from "../../parts/toast";
import { go } from "../../state/routing";
import { remember, remembered } from "../../state/theme";

const KEY = "cmdop.notify";

/** True: this browser tells when a session waits. */
export const isTold = signal(remembered(KEY) === "yes" && globalThis.Notification?.permission === "granted");

export async function toggleTelling(): Promise<void> {
  if (!isTold.value && (await Notification.requestPermission()) !== "granted") {
    toast("This browser does not allow it (it needs HTTPS, and your consent).");
    return;
  }
  isTold.value = !isTold.value;
  remember(KEY, isTold.value ? "yes" : "no");
}

/** Tell that a coding session waits for somebody, unless they look at this page. */
export function tellOfWaiting({ data }: HubEvent): void {
  if (!isTold.value || !document.hidden) return;
  const note = new Notification(`${String(data.agent)} waits for you`, {
    body: `${String(data.directory)} on ${String(data.machine_hostname)}`,
    tag: String(data.session_id),
  });
  note.onclick = () => {
    focus();
    go(`/terminals/${String(data.session_id)}`);
  };
}
