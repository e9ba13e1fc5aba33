// A command as a program that uses the Python SDK.

const NAMES: Record<string, string> = { timeout: "timeout_ms", queue_timeout: "queue_timeout_ms" };
const OF_BATCHES = ["concurrency", "canary", "max_errors"];

/** `given`: the rest of what POST /commands/batch is sent. */
export function asPython(machineIds: readonly string[], command: string, given: Record<string, unknown>): string {
  const isOne = machineIds.length === 1 && !OF_BATCHES.some((name) => name in given);
  const words = [
    literal(isOne ? machineIds[0] : machineIds),
    literal(command),
    ...Object.entries(given).map(([name, value]) => `${NAMES[name] ?? name}=${literal(value)}`),
  ];
  return [
    "from cmdop_appliance.sdk import Client",
    "",
    "with Client() as hub:  # takes CMDOP_URL and CMDOP_API_KEY",
    `    done = hub.commands.${isOne ? "run" : "batch"}(`,
    ...words.map((word) => `        ${word},`),
    "    )",
    ...(isOne
      ? ['    print(done["status"], done["exit_code"], done["stdout"])']
      : ["    for machine_id, end in done.items():", '        print(machine_id, end.get("error") or end["stdout"])']),
    "",
  ].join("\n");
}

function literal(value: unknown): string {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value); // its strings are Python's too
  return `{${Object.entries(value).map(([name, each]) => `${literal(name)}: ${literal(each)}`).join(", ")}}`;
}
