// What the end of a command means.

import type { CommandRecord } from "../api/types";

type Ended = Pick<CommandRecord, "status" | "exit_code" | "signal">;

const OF_CODE: Record<number, string> = {
  126: "What was called is no program, or may not be run.",
  127: "A program was not found.",
};

/** Of the status alone; `failed` has more to it. */
const OF_STATUS: Partial<Record<CommandRecord["status"], string>> = {
  pending: "It has not begun.",
  running: "It has not ended.",
  completed: "It did what it was asked to.",
  timeout: "Its time ran out, and all of it was ended.",
  expired: "It never started: its machine was away or busy for too long.",
  skipped: "It never started: errors stopped its batch.",
  lost: "Nobody can prove how it ended. It is not run again.",
};

/** In a word or two: `exit 3`, `timeout`; "": it succeeded. */
export function endOf({ status, exit_code: code, signal }: Ended): string {
  if (status === "completed") return "";
  if (code === null) return status;
  return signal ? `exit ${code} (${signal})` : `exit ${code}`;
}

/** In a sentence, or a few. */
export function meaningOf(command: Ended & Pick<CommandRecord, "error" | "started_at">): string {
  const { status, exit_code: code, signal, error } = command;
  const cancelled = command.started_at ? "It was ended on request." : "It never started.";
  const known = status === "cancelled" ? cancelled : OF_STATUS[status];
  const told = error && error.message !== "" ? `${sentence(error.message)} ` : "";
  if (known) return told + known;
  if (code === null) return `${told}It could not start.`;
  if (signal) return `${told}The signal ${signal} ended it.`;
  return told + (OF_CODE[code] ?? "What that means is up to the program; 0 would be success.");
}

const sentence = (text: string) => text[0]!.toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

export const hasEnded = (command: Pick<CommandRecord, "finished_at">): boolean => command.finished_at !== null;
