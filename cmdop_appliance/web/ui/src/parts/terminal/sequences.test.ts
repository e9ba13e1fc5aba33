import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { sequence } from "./sequences";

const none = { ctrl: false, alt: false };

test("arrows are sent as the program asked for them, and with what is held", () => {
  equal(sequence("ArrowUp", none, false), "\x1b[A");
  equal(sequence("ArrowUp", none, true), "\x1bOA");
  equal(sequence("ArrowLeft", { ctrl: true, alt: false }, true), "\x1b[1;5D");
  equal(sequence("PageDown", none, true), "\x1b[6~");
});

test("Ctrl makes a control character, and Alt puts an escape before it", () => {
  deepEqual([sequence("c", { ctrl: true, alt: false }, false), sequence("d", { ctrl: true, alt: true }, false)], ["\x03", "\x1b\x04"]);
  equal(sequence("Tab", none, false), "\t");
});
