import { deepEqual } from "node:assert/strict";
import test from "node:test";
import type { Terminal } from "../../api/types";
import { byDirectory } from "./grouping";

const session = (id: string, changes: Partial<Terminal>): Terminal =>
  ({ id, machine_id: "m", directory: "/a", status: "running", waiting: false, created_at: "2026-01-01T00:00:00Z", ...changes }) as Terminal;

test("whoever waits for a person stands first, and what has ended last", () => {
  const groups = byDirectory([
    session("ended", { status: "ended", directory: "/z" }),
    session("old", {}),
    session("new", { created_at: "2026-02-01T00:00:00Z" }),
    session("waits", { waiting: true, directory: "/b" }),
  ]);
  deepEqual(groups.map((group) => [group.directory, group.members.map((each) => each.id)]), [
    ["/b", ["waits"]],
    ["/a", ["new", "old"]],
    ["/z", ["ended"]],
  ]);
});
