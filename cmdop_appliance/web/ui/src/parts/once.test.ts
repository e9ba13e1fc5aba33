import { equal, ok } from "node:assert/strict";
import test from "node:test";
import { ApiError, Away, said } from "../api/client";
import { clicked, Once } from "./once";

/** The key of one try that ends so. */
async function tried(once: Once, error?: unknown): Promise<string> {
  let used = "";
  await once.attempt(async (key) => {
    used = key;
    if (error) throw error;
  }).catch(() => {});
  return used;
}

test("tries of one thing have one key until it is done, whatever they were answered in between", async () => {
  const once = new Once();
  const refused = await tried(once, new ApiError(422, "validation_failed", ""));
  const lost = await tried(once, new Away(""));
  ok(refused !== lost, "nothing was done by it");
  for (const error of [new ApiError(503, "unavailable", ""), new ApiError(422, "validation_failed", ""), undefined]) {
    equal(await tried(once, error), lost);
  }
  ok((await tried(once)) !== lost, "this is another thing");
});

test("who changed a form whose answer was lost is told that it was done", async () => {
  const conflict = new ApiError(409, "idempotency_conflict", "this Idempotency-Key was used for another request");
  const error = await new Once().attempt(() => Promise.reject(conflict)).catch((problem) => problem);
  equal(said(error), "It was done before, though no answer came.");
});

test("a double click is one, and a key counts as a click", () => {
  let count = 0;
  const click = clicked(() => count++);
  for (const detail of [1, 2, 3]) click({ detail } as MouseEvent);
  equal(count, 1);
  click({ detail: 0 } as MouseEvent); // Enter
  equal(count, 2);
});
