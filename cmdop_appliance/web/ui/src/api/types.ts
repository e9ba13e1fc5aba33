// The records of the public API that the dashboard reads; docs/openapi.json has them whole.

export type Id = string;
/** RFC 3339, UTC. */
export type Time = string;

export interface Load {
  id: Id;
  at: Time;
  cpu_percent: number;
  memory_percent: number;
  disk_percent: number;
  network_rx_bytes: number;
  network_tx_bytes: number;
  uptime_seconds: number;
}

export interface Machine {
  id: Id;
  name: string;
  status: "online" | "offline";
  session_status: "CONNECTED" | "BACKGROUND" | "GRACE_PERIOD" | null;
  grace_until: Time | null;
  os: string;
  arch: string;
  hostname: string;
  tags: string[];
  created_at: Time;
  last_seen: Time | null;
  agent_version: string;
  load: Load | null;
}

export interface MachineDetail extends Machine {
  ip: string;
  facts: {
    hostname: string;
    platform: string;
    os: string;
    arch: string;
    kernel: string;
    user: string;
    home: string;
    agent_version: string;
    cpu_cores: number;
    memory_bytes: number;
  };
}

/** A step of time: means, the most, and bytes that came and went in it (null: nobody knows). */
export interface Point {
  at: Time;
  cpu_percent: number;
  cpu_percent_max: number;
  memory_percent: number;
  memory_percent_max: number;
  disk_percent: number;
  disk_percent_max: number;
  network_rx_bytes: number | null;
  network_tx_bytes: number | null;
}

/** A step without samples has no point. */
export interface Metrics {
  from: Time;
  to: Time;
  /** ms */
  step: number;
  points: Point[];
}

export interface EnrolmentToken {
  id: Id;
  tags: string[];
  max_uses: number;
  uses: number;
  expires_at: Time;
  token: string;
}

/** A file that GET /dl lists. */
export interface Program {
  name: string;
  /** such as linux-x86_64 */
  platform: string;
  /** bytes */
  size: number;
  sha256: string;
}

export interface Programs {
  files: Program[];
  /** of the hub's certificate, if nobody but the hub vouches for it */
  key_pin: string | null;
  public_url: string | null;
}

export type CommandStatus =
  | "pending" | "running" | "completed" | "failed" | "cancelled" | "timeout" | "lost" | "expired" | "skipped";

/** A command as lists have it. */
export interface CommandRecord {
  id: Id;
  machine_id: Id;
  batch_id: Id | null;
  schedule_id: Id | null;
  command: string;
  cwd: string | null;
  user: string | null;
  /** ms */
  timeout: number | null;
  queue: boolean;
  status: CommandStatus;
  exit_code: number | null;
  signal: string | null;
  error: { code: string; message: string } | null;
  cancel_requested: boolean;
  late: boolean;
  unknown_to_hub: boolean;
  stale_since: Time | null;
  created_at: Time;
  started_at: Time | null;
  finished_at: Time | null;
  /** ms */
  duration: number | null;
  user_email: string;
}

/** With its output so far: of each stream its head and its tail. */
export interface Command extends CommandRecord {
  stdout: string;
  stderr: string;
  stdout_bytes: number;
  stderr_bytes: number;
  stdout_sha256: string | null;
  stderr_sha256: string | null;
  stdout_truncated: boolean;
  stderr_truncated: boolean;
}

export interface Me {
  id: Id;
  email: string;
  name: string;
  permissions: string[];
  sign_in_id?: Id;
}

export interface HubEvent {
  id: Id;
  type: string;
  timestamp: Time;
  seq: number;
  data: Record<string, unknown>;
}

/** The numbers of a list's part. */
export interface ListMeta {
  request_id: string;
  total: number;
  limit: number;
  offset: number;
  has_more: boolean;
}

export interface Terminal {
  id: Id;
  kind: "terminal" | "coding_session";
  name: string;
  machine_id: Id;
  status: "starting" | "running" | "ended";
  cols: number;
  rows: number;
  argv: string[] | null;
  cwd: string | null;
  user: string | null;
  agent: string | null;
  model: string | null;
  yolo: boolean | null;
  directory: string | null;
  worktree: { path: string; branch: string } | null;
  user_email: string;
  recorded: boolean;
  waiting: boolean;
  ending: boolean;
  stale_since: Time | null;
  viewers: { operators: number; observers: number };
  created_at: Time;
  started_at: Time | null;
  ended_at: Time | null;
  end: "exited" | "failed" | "cancelled" | "idle" | "lost" | null;
  exit_code: number | null;
  signal: string | null;
  error: { code: string; message: string } | null;
}

export interface Key {
  id: Id;
  name: string;
  key_prefix: string;
  scopes: string[];
  tags: string[];
  expires_at: Time | null;
  created_at: Time;
  last_used_at: Time | null;
  last_used_ip: string | null;
}

export interface SignIn {
  id: Id;
  key_id: Id;
  key_name: string;
  created_at: Time;
  last_seen_at: Time;
  ip: string;
  user_agent: string;
  expires_at: Time;
  current: boolean;
}

export interface AuditEntry {
  seq: number;
  at: Time;
  actor: string;
  api_key_id: Id | null;
  action: string;
  target: string;
  outcome: "ok" | "refused";
  details: Record<string, unknown>;
  hash: string;
}

export interface Schedule {
  id: Id;
  name: string;
  description: string;
  machine_id: Id | null;
  machine_ids: Id[] | null;
  tags: string[] | null;
  command: string;
  cron: string;
  /** The rule in words. */
  rule: string;
  timezone: string;
  enabled: boolean;
  /** ms */
  timeout: number | null;
  cwd: string | null;
  env: Record<string, string>;
  user: string | null;
  overlap: "skip" | "queue" | "allow" | "cancel_previous";
  misfire: "run_once" | "skip";
  /** ms */
  misfire_window: number;
  notify: { on_success: boolean; on_failure: boolean };
  next_run: Time | null;
  last_run: { at: Time; exit_code: number | null; duration: number | null } | null;
  paused: string | null;
  user_email: string;
}

export interface Run {
  id: Id;
  schedule_id: Id;
  scheduled_at: Time | null;
  machine_id: Id | null;
  command_id: Id | null;
  status: CommandStatus | "started" | "missed" | "skipped";
  reason: string | null;
  message: string | null;
  started_at: Time | null;
  finished_at: Time | null;
  exit_code: number | null;
  duration: number | null;
}

export interface Preview {
  description: string;
  next_runs: { utc: Time; local: string; note: string | null }[];
}

export interface Webhook {
  id: Id;
  url: string;
  events: string[];
  enabled: boolean;
  description: string;
  preset: string | null;
  header_names: string[];
  disabled_reason: string | null;
  failing_since: Time | null;
  last_success_at: Time | null;
  pending: number;
  created_at: Time;
}

export interface Delivery {
  id: Id;
  event_id: Id;
  event: string;
  subject: string;
  seq: number;
  status: "pending" | "delivered" | "dead";
  reason: string | null;
  attempt_count: number;
  next_attempt_at: Time | null;
  created_at: Time;
  ended_at: Time | null;
  data: Record<string, unknown>;
  attempts: {
    number: number;
    at: Time;
    duration: number;
    response_status: number | null;
    error: string | null;
    response_excerpt: string | null;
  }[];
}

export interface FileEntry {
  name: string;
  path: string;
  type: "file" | "directory" | "symlink" | "other";
  size: number;
  mode: string;
  owner: string;
  group: string;
  modified_at: Time | null;
  target: string | null;
  path_base64: string | null;
}

export interface FileContent {
  path: string;
  content: string;
  size: number;
  encoding: "utf-8" | "base64";
  sha256: string | null;
}
