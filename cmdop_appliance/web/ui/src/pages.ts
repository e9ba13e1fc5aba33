// The dashboard's pages: path, name, and where they are. The hub serves the shell at the same paths.

import type { ComponentType } from "preact";
import { may } from "./state/me";

export type PageProps = { params: Record<string, string> };

export interface Page {
  path: string;
  title: string;
  load: () => Promise<{ default: ComponentType<PageProps> }>;
  /** In the navigation, with the key that follows `g`. */
  key?: string;
  /** Scopes without which the hub would refuse all that it asks for. */
  needs?: string[];
}

/** What lies over a page; null: nothing. */
export type Over = "palette" | "shortcuts" | null;

const COMMANDS = "sessions:read or commands:execute";

export const PAGES: Page[] = [
  { path: "/", title: "Machines", key: "m", needs: ["machines:read"], load: () => import("./pages/machines") },
  { path: "/machines/:id", title: "Machine", needs: ["machines:read"], load: () => import("./pages/machine") },
  { path: "/run", title: "Run", key: "r", needs: [COMMANDS], load: () => import("./pages/run") },
  { path: "/commands", title: "Commands", key: "c", needs: [COMMANDS], load: () => import("./pages/commands") },
  { path: "/commands/:id", title: "Command", needs: [COMMANDS], load: () => import("./pages/command") },
  { path: "/terminals", title: "Terminals", key: "t", needs: ["sessions:read"], load: () => import("./pages/terminals") },
  { path: "/terminals/:id", title: "Terminal", needs: ["sessions:read"], load: () => import("./pages/terminal") },
  { path: "/coding", title: "Coding", key: "o", needs: ["sessions:read"], load: () => import("./pages/coding") },
  { path: "/files", title: "Files", key: "f", needs: ["files:read", "machines:read"], load: () => import("./pages/files") },
  { path: "/schedules", title: "Schedules", key: "s", needs: ["schedules:read"], load: () => import("./pages/schedules") },
  { path: "/schedules/:id", title: "Schedule", needs: ["schedules:read"], load: () => import("./pages/schedule") },
  { path: "/webhooks", title: "Webhooks", key: "w", needs: ["webhooks:manage"], load: () => import("./pages/webhooks") },
  { path: "/webhooks/:id", title: "Webhook", needs: ["webhooks:manage"], load: () => import("./pages/webhook") },
  { path: "/keys", title: "Keys", key: "k", needs: ["admin"], load: () => import("./pages/keys") },
  { path: "/audit", title: "Audit", key: "a", needs: ["admin"], load: () => import("./pages/audit") },
  { path: "/settings", title: "Settings", key: "e", load: () => import("./pages/settings") },
];

/** What of that the key behind this browser has not. */
export const lacking = ({ needs = [] }: Page): string[] => needs.filter((each) => !each.split(" or ").some(may));
