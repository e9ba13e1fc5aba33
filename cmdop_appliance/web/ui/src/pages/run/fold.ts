// Results of many machines as one reads them: those that are the same together.

import type { Command, Id } from "../../api/types";
import { endOf } from "../../parts/ends";

/** What came of one machine: a command, or why there is none. */
export type Result = Command | { error: { code: string; message: string; details?: Record<string, unknown> } };

export interface Named {
  id: Id;
  name: string;
}

/** A machine, and the id of what ran there; null: nothing did. */
export interface Ended extends Named {
  commandId: Id | null;
}

export interface Group {
  /** By name. */
  machines: Ended[];
  /** How it ended: `exit 3`, `timeout`, why it was refused; "": well. */
  said: string;
  /** null: it was refused. */
  command: Command | null;
  key: string;
}

export const isCommand = (result: Result): result is Command => "status" in result;

export function saidOf(result: Result): string {
  if (!isCommand(result)) return result.error.code === "session_not_active" ? "not connected" : result.error.message;
  const end = endOf(result);
  if (result.status === "skipped") return end; // what is to be done about it stands above all groups
  return end && result.exit_code === null && result.error?.message ? `${end}: ${result.error.message}` : end;
}

/** The groups of what has ended, the largest first, and of equal ones those that went well. */
export function fold(results: Iterable<[Named, Result]>, collate: (a: string, b: string) => number): Group[] {
  const groups = new Map<string, Group>();
  for (const [machine, result] of results) {
    const command = isCommand(result) ? result : null;
    const said = saidOf(result);
    const key = JSON.stringify([said, ...(command ? [written(command, "stdout"), written(command, "stderr")] : [])]);
    const group = groups.get(key);
    const ended = { ...machine, commandId: command?.id ?? null };
    if (group) group.machines.push(ended);
    else groups.set(key, { machines: [ended], said, command, key });
  }
  const found = [...groups.values()];
  for (const { machines } of found) machines.sort((a, b) => collate(a.name, b.name));
  return found.sort(
    (a, b) =>
      b.machines.length - a.machines.length ||
      Number(a.said !== "") - Number(b.said !== "") ||
      collate(a.machines[0]!.name, b.machines[0]!.name),
  );
}

/** What stands for all that was written, of which the text may be a part. */
const written = (command: Command, stream: "stdout" | "stderr"): string =>
  command[`${stream}_sha256`] ?? `${command[`${stream}_bytes`]} ${command[stream]}`;

/** What a machine wrote, as one text; its control sequences are still in it. */
export function outputOf(command: Pick<Command, "stdout" | "stderr">): string {
  const { stdout, stderr } = command;
  if (!stderr) return stdout;
  return `${stdout}${stdout && !stdout.endsWith("\n") ? "\n" : ""}[stderr]\n${stderr}`;
}
