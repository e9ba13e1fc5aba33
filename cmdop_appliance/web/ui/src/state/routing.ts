// Which page is shown: the address bar is the one truth.

import { computed, signal } from "@preact/signals";

const address = signal(read());

function read(): URL {
  return new URL(globalThis.location?.href ?? "http://hub/");
}

export const path = computed(() => address.value.pathname);
export const query = computed(() => address.value.searchParams);
export const hash = computed(() => decodeURIComponent(address.value.hash.slice(1)));

/** Show another page, or this one with another address. */
export function go(to: string, how: "push" | "replace" = "push"): void {
  const before = address.value.pathname;
  history[`${how}State`](null, "", to);
  address.value = read();
  if (address.value.pathname !== before && !address.value.hash) scrollTo(0, 0);
}

/** Change parts of the address's query; "" and null take one away. */
export function setQuery(changes: Record<string, string | null>): void {
  const url = new URL(address.value);
  for (const [name, value] of Object.entries(changes)) {
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
  }
  go(url.pathname + url.search + url.hash, "replace");
}

// An id, and nothing that would be another path where it is put into one.
const ID = /^[\w-]+$/;

/** The ids of `:name` parts where `pattern` fits the path; null: it does not. */
export function match(pattern: string, actual: string): Record<string, string> | null {
  const wanted = pattern.split("/");
  const parts = actual.split("/");
  if (wanted.length !== parts.length) return null;
  const found: Record<string, string> = {};
  for (const [index, part] of wanted.entries()) {
    const value = parts[index] ?? "";
    if (part.startsWith(":")) {
      if (!ID.test(value)) return null;
      found[part.slice(1)] = value;
    } else if (part !== value) return null;
  }
  return found;
}

/** Make plain links of the dashboard's pages change the page without a load. */
export function listenToLinks(isPage: (path: string) => boolean): void {
  addEventListener("popstate", () => (address.value = read()));
  addEventListener("hashchange", () => (address.value = read()));
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const link = (event.target as Element).closest?.("a");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (!isPage(link.pathname)) return;
    event.preventDefault();
    go(link.pathname + link.search + link.hash);
  });
}
