import { deepEqual, equal, ok } from "node:assert/strict";
import test from "node:test";
import { meaningOf } from "../../parts/ends";
import { quoted } from "../../parts/shell";
import { Attempts } from "./attempts";
import { fold, type Result } from "./fold";
import { asCli, DEFAULTS, milliseconds, read, span } from "./options";
import { askedFor, isRisky } from "./risks";
import { allFitting, glob, readSelectors, titled, writeSelectors } from "./targets";

const machine = (name: string, ...tags: string[]) => ({ id: `mach_${name}`, name, hostname: `${name}.lan`, tags, status: "online" as const });
const MACHINES = [machine("web-1", "web", "eu"), machine("web-2", "web"), machine("db", "eu")];
const fits = (...selectors: string[]) => allFitting(selectors, MACHINES).map(({ name }) => name);

test("selectors fit tags (all of them), globs over names, single machines, and all, each once", () => {
  deepEqual(fits("tag:web"), ["web-1", "web-2"]);
  deepEqual(fits("tag:web,eu"), ["web-1"]);
  deepEqual(fits("db", "web-*", "tag:web"), ["web-1", "web-2", "db"]);
  deepEqual(fits("mach_db", "web-1.lan"), ["web-1", "db"]);
  deepEqual(fits("@all").length, 3);
  deepEqual([fits("tag:"), fits("we"), fits()], [[], [], []]);
  equal(titled("mach_db", MACHINES), "db");
});

test("globs are those of the command line, and match whole names", () => {
  const table: [string, string, boolean][] = [
    ["web-*", "web-", true], ["web-*", "my-web-1", false], ["w?b", "web", true], ["w?b", "wb", false],
    ["n[0-9]", "n5", true], ["n[!0-9]", "n5", false], ["n[]a]", "n]", true], ["a.b", "axb", false],
    ["[z-a]", "z", false], ["[", "[", true], ["a+", "aa", false], ["*", "", true],
  ];
  for (const [pattern, name, isFit] of table) equal(glob(pattern).test(name), isFit, `${pattern} ${name}`);
});

test("selectors survive the address", () => {
  const selectors = ["@all", "tag:web,eu", "tag:db", "web-*", "mach_db"];
  deepEqual(readSelectors(new URLSearchParams(writeSelectors(selectors))), selectors);
  deepEqual(readSelectors(new URLSearchParams("machines=a,b&tags=x,y")), ["tag:x", "tag:y", "a", "b"]);
});

test("commands that destroy are known", () => {
  for (const command of [
    "rm -rf /srv", "sudo rm -fr x", "rm dir -r", "mkfs.ext4 /dev/sda1", "dd if=x of=/dev/sda", "reboot", "systemctl poweroff",
    "echo x > /dev/sda", "psql -c 'drop table users'", "DROP DATABASE x", ":(){ :|:& };:", "bomb() { bomb | bomb & }; bomb", "chmod -R 777 /",
  ]) ok(isRisky(command), command);
  for (const command of ["uptime", "rm file", "cat x > /dev/null", "ls 2>/dev/stderr", "form -r", "echo dropped tables", "f() { g; }"]) {
    ok(!isRisky(command), command);
  }
});

test("a person is asked only where it matters", () => {
  deepEqual(
    [askedFor("rm -rf x", 1), askedFor("rm -rf x", 2), askedFor("ls", 10), askedFor("ls", 11)],
    ["nothing", "yes", "nothing", "count"],
  );
});

const ended = (stdout: string, more: object = {}) =>
  ({ status: "completed", exit_code: 0, signal: null, error: null, stdout, stderr: "", stdout_bytes: stdout.length, stderr_bytes: 0, stdout_sha256: `sum of ${stdout}`, stderr_sha256: "", ...more }) as unknown as Result;

test("same ends with the same output are one group, the largest first", () => {
  const failed = { status: "failed", exit_code: 3 };
  const groups = fold(
    [
      [{ id: "3", name: "c" }, ended("up")],
      [{ id: "1", name: "a" }, ended("up", failed)],
      [{ id: "2", name: "b" }, ended("up", { id: "cmd_b" })],
      [{ id: "4", name: "d" }, { error: { code: "session_not_active", message: "no" } }],
      [{ id: "5", name: "e" }, ended("up", { stdout_sha256: "other" })],
    ],
    (a, b) => a.localeCompare(b),
  );
  deepEqual(
    groups.map(({ machines, said }) => [machines.map(({ name }) => name).join(), said]),
    [["b,c", ""], ["e", ""], ["a", "exit 3"], ["d", "not connected"]],
  );
  deepEqual([groups[0], groups[3]].map((group) => group!.machines[0]!.commandId), ["cmd_b", null]);
});

test("options become what the hub takes", () => {
  const { body, problems } = read({
    ...DEFAULTS, env: "A=1\n\nB=x=y", parallel: "25%", failAfter: "1", canary: "2", queue: true, queueTimeout: "2h", cwd: " /tmp ",
  });
  deepEqual(problems, {});
  deepEqual(body, {
    cwd: "/tmp", env: { A: "1", B: "x=y" }, timeout: 3_600_000, concurrency: "25%", canary: 2, max_errors: 0, queue: true, queue_timeout: 7_200_000,
  });
  deepEqual(Object.keys(read({ ...DEFAULTS, timeout: "soon", parallel: "200%", failAfter: "0", canary: "x" }).problems), [
    "timeout", "parallel", "canary", "failAfter",
  ]);
  deepEqual(["90s", "1d", "5", "0s", ""].map(milliseconds), [90_000, 86_400_000, null, null, null]);
  deepEqual([90_000, 3_600_000, 1, 172_800_000].map(span), ["90s", "1h", "1ms", "2d"]);
});

test("the line for a shell says the same, and quotes what a shell would read", () => {
  equal(
    asCli(["tag:web", "db-*"], "echo 'it is'", { ...DEFAULTS, canary: "1", env: "A=x y" }),
    `cmdop run -t tag:web -t 'db-*' --canary=1 --timeout 1h --env 'A=x y' -- 'echo '\\''it is'\\'''`,
  );
  deepEqual(["", "a b", "a-b.c/d"].map(quoted), ["''", "'a b'", "a-b.c/d"]);
});

test("the end of a command is told in words", () => {
  const of = (more: object) => meaningOf({ status: "failed", exit_code: null, signal: null, error: null, started_at: null, ...more });
  equal(of({ exit_code: 127 }), "A program was not found.");
  equal(of({ exit_code: 137, signal: "SIGKILL" }), "The signal SIGKILL ended it.");
  equal(of({ error: { code: "cwd_missing", message: "there is no /x" } }), "There is no /x. It could not start.");
  equal(of({ status: "cancelled", started_at: "2026-01-01T00:00:00Z" }), "It was ended on request.");
  ok(of({ status: "lost" }).startsWith("Nobody can prove"));
});

test("a run whose answer was lost stands until it is settled, over a reload too, but for what may be secret", () => {
  const stored = new Map<string, string>();
  globalThis.sessionStorage = {
    getItem: (key: string) => stored.get(key) ?? null,
    setItem: (key: string, value: string) => void stored.set(key, value),
  } as Storage;
  const plain = { key: "1", body: { command: "__proto__", machine_ids: ["mach_1"] } };
  const secret = { key: "2", body: { command: "deploy", machine_ids: ["mach_1"], env: { TOKEN: "hush" } } };
  const here = new Attempts();
  for (const attempt of [plain, secret]) here.begin(attempt);
  deepEqual([here.of("__proto__"), here.of("deploy"), here.of("ls")], [plain, secret, undefined]);
  const reloaded = new Attempts();
  deepEqual([reloaded.of("__proto__"), reloaded.of("deploy")], [plain, undefined]);
  ok(![...stored.values()].join().includes("hush"));
  reloaded.end("__proto__");
  equal(new Attempts().of("__proto__"), undefined);
});
