import { equal } from "node:assert/strict";
import test from "node:test";
import type { AuditEntry } from "../../api/types";
import { csv } from "./saving";

test("a cell that would be a formula, or would end its row, is text", () => {
  const entry: AuditEntry = { seq: 1, at: "2026-01-01T00:00:00Z", actor: '=cmd|"x"', api_key_id: null, action: "a.b", target: "", outcome: "ok", details: { name: "a,b" }, hash: "" };
  equal(csv([entry]).split("\r\n")[1], `1,2026-01-01T00:00:00Z,"'=cmd|""x""",a.b,,ok,"{""name"":""a,b""}"`);
});
