// What webhooks can be told of; docs/webhooks.md and docs/sessions.md say when.

export const FAMILIES: Record<string, string[]> = {
  machine: ["registered", "online", "offline", "changed", "removed"],
  command: ["started", "completed", "failed", "cancelled", "timeout", "lost", "expired"],
  schedule: ["completed", "failed", "missed", "skipped"],
  coding_session: ["started", "waiting", "ended"],
  file: ["uploaded"],
  session: ["created", "connected", "client_attached", "client_detached", "grace_period", "disconnected"],
  webhook: ["disabled"],
};

export interface Preset {
  name: string;
  /** An example of its URL. */
  url: string;
  hint: string;
}

export const PRESETS: Record<string, Preset> = {
  "": { name: "A program of mine", url: "https://hooks.example.com/cmdop", hint: "Signed JSON; the secret is shown once." },
  ntfy: { name: "ntfy", url: "https://ntfy.sh/TOPIC", hint: "Everybody who knows the topic can read it: choose a long one." },
  gotify: { name: "Gotify", url: "https://gotify.example.com/message", hint: "With a header X-Gotify-Key, or ?token=… in the URL." },
  discord: { name: "Discord", url: "https://discord.com/api/webhooks/ID/TOKEN", hint: "Channel settings, Integrations, Webhooks." },
  slack: { name: "Slack", url: "https://hooks.slack.com/services/ID/ID/TOKEN", hint: "An incoming webhook." },
  telegram: { name: "Telegram", url: "https://api.telegram.org/botTOKEN/sendMessage?chat_id=ID", hint: "A bot's token and a chat's id." },
};

/** What goes wrong, and what waits for a person: a good beginning. */
export const SUGGESTED = ["schedule.failed", "schedule.missed", "machine.offline", "coding_session.waiting"];

/** The receiver without its path, which may be a secret. */
export function hostOf(url: string): string {
  try {
    return new URL(url).host;
  } catch {
    return "?";
  }
}

/** Name of a header → its value, of lines `Name: value`. */
export function headersOf(lines: string): Record<string, string> {
  return Object.fromEntries(
    lines.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
      const [name = "", ...value] = line.split(":");
      return [name.trim(), value.join(":").trim()];
    }),
  );
}
