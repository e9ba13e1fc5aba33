import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { choiceOf, cronOf, FIRST } from "./rules";

test("each choice makes a rule, and that rule the choice again", () => {
  for (const [choice, cron] of [
    [{ ...FIRST, every: "minutes", minutes: 5 }, "*/5 * * * *"],
    [{ ...FIRST, every: "minutes", minutes: 1 }, "* * * * *"],
    [{ ...FIRST, every: "hour", at: "00:20" }, "20 * * * *"],
    [{ ...FIRST, every: "day", at: "03:30" }, "30 3 * * *"],
    [{ ...FIRST, every: "week", at: "04:00", days: [1, 5] }, "0 4 * * 1,5"],
    [{ ...FIRST, every: "month", at: "00:00", day: 31 }, "0 0 31 * *"],
  ] as const) {
    equal(cronOf(choice as never), cron);
    deepEqual(choiceOf(cron), choice);
  }
});

test("a rule that no choice makes is left to its fields", () => {
  for (const cron of ["0 4 1 * mon", "0 9-17 * * *", "@daily", "0 4 * 2 *", "61 3 * * *", "0 24 * * *", ""]) equal(choiceOf(cron), null, cron);
});
