import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { unified } from "./diff";

test("a diff has what was taken away and added, with what stands around it", () => {
  deepEqual(unified("a\nb\nc\n", "a\nB\nc\n"), [
    { kind: "place", text: "@@ -1,3 +1,3 @@" },
    { kind: "same", text: "a" },
    { kind: "less", text: "b" },
    { kind: "more", text: "B" },
    { kind: "same", text: "c" },
  ]);
  deepEqual(unified("a", "a"), []);
});

test("texts that are too long or too different are not compared", () => {
  const lines = (count: number, mark: string) => Array.from({ length: count }, (_, line) => `${mark}${line}\n`).join("");
  equal(unified(lines(6000, "a"), lines(6000, "a")), null);
  equal(unified(lines(2000, "a"), lines(2000, "b")), null);
});
