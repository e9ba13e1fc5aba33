// What the form asks for, as the hub takes it, and as the command line does.

import { quoted } from "../../parts/shell";
import { variablesOf } from "../../parts/variables";

/** As a person fills it in; "" and false: not given. */
export interface Options {
  cwd: string;
  user: string;
  env: string;
  stdin: string;
  timeout: string;
  shell: string;
  pty: boolean;
  parallel: string;
  failAfter: string;
  canary: string;
  queue: boolean;
  queueTimeout: string;
  supersedeKey: string;
  serialKey: string;
}

/** The hub itself would end a command of a batch after half a minute. */
export const DEFAULTS: Options = {
  cwd: "", user: "", env: "", stdin: "", timeout: "1h", shell: "", pty: false,
  parallel: "", failAfter: "", canary: "",
  queue: false, queueTimeout: "", supersedeKey: "", serialKey: "",
};

const MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

export type Problems = Partial<Record<keyof Options, string>>;

export interface Asked {
  /** Of POST /commands/batch, without command and machines. */
  body: Record<string, unknown>;
  problems: Problems;
}

/** `5m` → 300000; null: that is no duration. */
export function milliseconds(text: string): number | null {
  const found = /^(\d{1,9})(ms|s|m|h|d)$/.exec(text.trim());
  return found && Number(found[1]) ? Number(found[1]) * MS[found[2] as keyof typeof MS] : null;
}

/** `300000` → `5m` */
export function span(ms: number): string {
  const [unit, size] = Object.entries(MS).findLast(([, each]) => ms % each === 0)!;
  return `${ms / size}${unit}`;
}

export function read(options: Options): Asked {
  const body: Record<string, unknown> = {};
  const problems: Problems = {};
  const take = (field: keyof Options, name: string, value: unknown, problem: string) => {
    if (value === null) problems[field] = problem;
    else if (value !== undefined) body[name] = value;
  };
  const given = (text: string) => text.trim() || undefined;
  const whole = (text: string) => (/^[1-9]\d{0,8}$/.test(text.trim()) ? Number(text) : text.trim() ? null : undefined);
  const isShare = /^([1-9]\d?|100)%$/.test(options.parallel.trim());

  take("cwd", "cwd", given(options.cwd), "");
  take("user", "user", given(options.user), "");
  take("env", "env", options.env.trim() ? variablesOf(options.env) : undefined, "");
  take("stdin", "stdin", options.stdin || undefined, "");
  take("timeout", "timeout", options.timeout.trim() ? milliseconds(options.timeout) : null, "Such as 30s, 5m, 1h or 1d.");
  take("shell", "shell", given(options.shell), "");
  take("pty", "pty", options.pty || undefined, "");
  take("parallel", "concurrency", isShare ? options.parallel.trim() : whole(options.parallel), "A number such as 5, or a share such as 25%.");
  take("canary", "canary", whole(options.canary), "A number such as 1.");
  const failures = whole(options.failAfter);
  take("failAfter", "max_errors", failures ? failures - 1 : failures, "A number such as 1.");
  if (options.queue) {
    body.queue = true;
    take("queueTimeout", "queue_timeout", options.queueTimeout.trim() ? milliseconds(options.queueTimeout) : undefined, "Such as 2h or 7d.");
    take("supersedeKey", "supersede_key", given(options.supersedeKey), "");
  }
  take("serialKey", "serial_key", given(options.serialKey), "");
  return { body, problems };
}

/** The same as a line of the command line. What only the API takes is not in it. */
export function asCli(selectors: readonly string[], command: string, options: Options): string {
  const flag = (name: string, value: string) => (value.trim() ? [name, quoted(value.trim())] : []);
  const words = [
    "cmdop", "run",
    ...selectors.flatMap((selector) => ["-t", quoted(selector)]),
    ...flag("--parallel", options.parallel),
    ...flag("--fail-after", options.failAfter),
    ...(options.canary.trim() ? [`--canary=${options.canary.trim()}`] : []),
    ...flag("--timeout", options.timeout),
    ...flag("--cwd", options.cwd),
    ...flag("--user", options.user),
    ...Object.entries(variablesOf(options.env)).flatMap((pair) => ["--env", quoted(pair.join("="))]),
    ...(options.queue ? ["--queue", ...flag("--queue-timeout", options.queueTimeout)] : []),
  ];
  return `${words.join(" ")} -- ${quoted(command)}`;
}
