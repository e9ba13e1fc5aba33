import { deepEqual } from "node:assert/strict";
import test from "node:test";
import { firstOf, SPARE, windowOf } from "./window";

test("of a thousand rows only those near the screen are there, and all of a few", () => {
  deepEqual(windowOf(1000, 50, 0, 500), { from: 0, to: 10 });
  deepEqual(windowOf(1000, 50, 10_020, 500, 5), { from: 195, to: 216 });
  deepEqual(windowOf(1000, 50, 49_500, 500, SPARE), { from: 985, to: 1000 });
  deepEqual(windowOf(1000, 50, -200, 500), { from: 0, to: 6 });
  deepEqual(windowOf(61, 50, 9_999, 500), { from: 61, to: 61 });
  deepEqual(windowOf(60, 50, 9_999, 500), { from: 0, to: 60 });
});

test("what is seen comes first, what was there stays, and what goes out of reach goes at once", () => {
  const seen = { from: 22, to: 36 };
  const wanted = { from: 17, to: 41 };
  deepEqual(firstOf({ from: 5, to: 29 }, seen, wanted), { from: 17, to: 36 });
  deepEqual(firstOf({ from: 25, to: 60 }, seen, wanted), { from: 22, to: 41 });
  deepEqual(firstOf({ from: 400, to: 420 }, seen, wanted), seen);
  deepEqual(firstOf(wanted, seen, wanted), wanted);
});
