// Keys that work on every page.

import { isSignedIn } from "../api/client";
import { type Over, PAGES } from "../pages";
import { go } from "../state/routing";

const GOING_MS = 1500; // between g and the key of a page

/** Listen from now on; `open` shows what lies over the page. Gives back how to stop. */
export function listenToKeys(open: (part: Over) => void): () => void {
  let isGoing = false;
  const listen = (event: KeyboardEvent) => {
    if (isSignedIn.value !== true) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      if ((event.target as Element).closest(".xterm")) return; // a shell's own Ctrl-K
      event.preventDefault();
      open("palette");
      return;
    }
    const isTyping = (event.target as Element).closest("input, textarea, select, dialog, .xterm, [contenteditable]");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isGoing) {
      isGoing = false;
      const page = PAGES.find((each) => each.key === event.key);
      if (page) go(page.path);
    } else if (event.key === "g") {
      isGoing = true;
      setTimeout(() => (isGoing = false), GOING_MS);
    } else if (event.key === "?") {
      open("shortcuts");
    } else if (event.key === "/") {
      const filter = document.querySelector<HTMLInputElement>("main input[type=search]");
      if (filter) {
        event.preventDefault();
        filter.focus();
      }
    }
  };
  addEventListener("keydown", listen);
  return () => removeEventListener("keydown", listen);
}
