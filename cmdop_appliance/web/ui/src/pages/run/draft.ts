// A command to run again, on its way from another page. Not in the address: that is no place for
// what people type.

import type { CommandRecord, Id } from "../../api/types";
import { writeSelectors } from "./targets";
import { DEFAULTS, type Options, span } from "./options";

export interface Draft {
  command: string;
  options: Options;
}

let kept: Draft | null = null;

/** Remember it; gives back the address of the page that takes it. */
export function draftOf(command: CommandRecord): string {
  kept = asDraft(command);
  return addressOf(command.machine_id);
}

/** The same for a line that somebody has typed for a machine. */
export function draftFor(machineId: Id, command: string): string {
  kept = { command, options: DEFAULTS };
  return addressOf(machineId);
}

function addressOf(machineId: Id): string {
  const query = new URLSearchParams(Object.entries(writeSelectors([machineId])).filter(([, value]) => value));
  return `/run?${query}`;
}

export function takeDraft(): Draft | null {
  const draft = kept;
  kept = null;
  return draft;
}

/** What can be known of how it was asked for: variables and stdin are not in its record. */
export function asDraft({ command, cwd, user, timeout, queue }: CommandRecord): Draft {
  return {
    command,
    options: { ...DEFAULTS, cwd: cwd ?? "", user: user ?? "", timeout: timeout ? span(timeout) : DEFAULTS.timeout, queue },
  };
}
