// Runs whose answer did not come: whether they were begun, nobody here can tell. Sent again as they
// were, with their key, they begin once.

import type { Id } from "../../api/types";

/** Of POST /commands/batch. */
export interface Body {
  command: string;
  machine_ids: Id[];
  [option: string]: unknown;
}

export interface Attempt {
  key: string;
  body: Body;
}

const KEY = "cmdop.run.unanswered";

export class Attempts {
  private readonly here = new Map<string, Attempt>(); // by command

  /** That which stands for a command. */
  of(command: string): Attempt | undefined {
    return this.here.get(command) ?? kept().get(command);
  }

  /** It is about to be sent. A reload forgets it where it has what may be secret. */
  begin(attempt: Attempt): void {
    const { command } = attempt.body;
    this.here.set(command, attempt);
    const isSecret = "stdin" in attempt.body || "env" in attempt.body;
    keep((all) => (isSecret ? all.delete(command) : all.set(command, attempt)));
  }

  /** It was answered, or is given up. */
  end(command: string): void {
    this.here.delete(command);
    keep((all) => all.delete(command));
  }
}

function kept(): Map<string, Attempt> {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(KEY) ?? "[]") as [string, Attempt][]);
  } catch {
    return new Map();
  }
}

function keep(change: (all: Map<string, Attempt>) => void): void {
  const all = kept();
  change(all);
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...all]));
  } catch {
    // a private window: a reload forgets it
  }
}
