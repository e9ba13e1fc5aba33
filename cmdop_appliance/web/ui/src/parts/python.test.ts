import { equal } from "node:assert/strict";
import test from "node:test";
import { asPython } from "./python";

test("a command for one machine is a call that waits for it, with the SDK's names", () => {
  equal(
    asPython(["mach_a"], 'echo "$A"\n', { timeout: 5000, env: { A: "é'\"" }, pty: true }),
    `from cmdop_appliance.sdk import Client

with Client() as hub:  # takes CMDOP_URL and CMDOP_API_KEY
    done = hub.commands.run(
        "mach_a",
        "echo \\"$A\\"\\n",
        timeout_ms=5000,
        env={"A": "é'\\""},
        pty=True,
    )
    print(done["status"], done["exit_code"], done["stdout"])
`,
  );
});

test("one for several machines, or in waves, is a batch", () => {
  const lines = (ids: string[], given: object) => asPython(ids, "true", { ...given }).split("\n").slice(3, 6);
  const begun = "    done = hub.commands.batch(";
  equal(lines(["mach_a", "mach_b"], {}).join("\n"), `${begun}\n        ["mach_a", "mach_b"],\n        "true",`);
  equal(lines(["mach_a"], { canary: 1 })[0], begun);
});
