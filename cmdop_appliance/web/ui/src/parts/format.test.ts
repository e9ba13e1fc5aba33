import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { match } from "../state/routing";
import { bytes, duration } from "./format";
import { distance } from "./when";

test("bytes are shown in the unit that fits", () => {
  deepEqual([0, 1023, 1536, 10 * 2 ** 20, 3 * 2 ** 40].map(bytes), ["0 B", "1023 B", "1.5 KiB", "10 MiB", "3.0 TiB"]);
});

test("durations keep their two largest units", () => {
  deepEqual([12, 1234, 83_000, 3_600_000, 90_061_000].map(duration), ["12 ms", "1.2 s", "1 min 23 s", "1 h", "1 d 1 h"]);
});

test("a time is told by its distance, forwards and backwards", () => {
  equal(distance(0, 3000), "now");
  equal(distance(0, 61_000), "1 min ago");
  equal(distance(7_200_000, 0), "in 2 h");
});

test("a page is found by its path, and only by ids that can be no path themselves", () => {
  deepEqual(match("/machines/:id", "/machines/mach_1"), { id: "mach_1" });
  for (const id of ["", "%", "a%2Fb", "..%5Cmachines", "..", "a\\b", "a?b", "a.b"]) equal(match("/machines/:id", `/machines/${id}`), null, id);
  equal(match("/machines", "/machines/x"), null);
});
