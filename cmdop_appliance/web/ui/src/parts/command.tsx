import type { CommandRecord, Id } from "../api/types";
import { machines } from "../state/machines";
import { endOf } from "./ends";
import { Status } from "./status";

/** How a command stands, with its exit code where it has one that matters. */
export function CommandState({ command }: { command: Pick<CommandRecord, "status" | "exit_code" | "signal" | "error" | "cancel_requested"> }) {
  const isOpen = command.status === "running" || command.status === "pending";
  const text = isOpen && command.cancel_requested ? "ending" : endOf(command) || command.status;
  return <Status state={command.status} text={text} />;
}

/** A machine by its name, once the machines are known. */
export function MachineLink({ id }: { id: Id }) {
  return <a href={`/machines/${id}`}>{machines.value?.get(id)?.name ?? id}</a>;
}
