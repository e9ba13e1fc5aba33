import { all } from "../../api/client";
import type { AuditEntry } from "../../api/types";

const MOST = 100_000; // entries in one file

/** Save what fits the filters as a file. */
export async function save(form: "csv" | "jsonl", filters: Record<string, string>): Promise<void> {
  const entries = await all<AuditEntry>("/audit", filters, MOST);
  const text = form === "csv" ? csv(entries) : entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: form === "csv" ? "text/csv" : "application/jsonl" }));
  link.download = `audit.${form}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** As spreadsheets read it (RFC 4180). What begins like a formula is made text. */
export function csv(entries: readonly AuditEntry[]): string {
  const rows = entries.map(({ seq, at, actor, action, target, outcome, details }) =>
    [String(seq), at, actor, action, target, outcome, JSON.stringify(details)].map(cell).join(","),
  );
  return ["seq,at,actor,action,target,outcome,details", ...rows, ""].join("\r\n");
}

function cell(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
