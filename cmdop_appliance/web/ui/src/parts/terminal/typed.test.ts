import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { Typed } from "./typed";

const bytes = (count: number) => new Uint8Array(count).fill(97);
const offsets = (typed: Typed) =>
  [...typed.due()].map((message) => [Number(new DataView(message.buffer).getBigUint64(0)), message.length - 8]);

test("keys go in pieces of 16 KiB, and no more than 64 KiB are under way", () => {
  const typed = new Typed();
  typed.add(bytes(80 * 1024));
  deepEqual(offsets(typed), [0, 1, 2, 3].map((piece) => [piece * 16_384, 16_384]));
  deepEqual(offsets(typed), []);
  typed.confirm(20_000);
  deepEqual(offsets(typed), [[65_536, 16_384]]);
});

test("what was not confirmed is sent again from the last that was", () => {
  const typed = new Typed();
  typed.add(bytes(10));
  offsets(typed);
  typed.confirm(4);
  equal(typed.isWaiting, true);
  typed.rewind();
  deepEqual(offsets(typed), [[4, 6]]);
  typed.confirm(10);
  equal(typed.isWaiting, false);
});

test("a machine that forgot the writer gets what is left from offset 0", () => {
  const typed = new Typed();
  typed.add(bytes(10));
  offsets(typed);
  typed.confirm(4);
  equal(typed.confirm(0), false);
  typed.restart();
  deepEqual(offsets(typed), [[0, 6]]);
});

test("what cannot wait is refused as a whole", () => {
  const typed = new Typed();
  equal(typed.add(bytes(1024 * 1024)), true);
  equal(typed.add(bytes(1)), false);
});
