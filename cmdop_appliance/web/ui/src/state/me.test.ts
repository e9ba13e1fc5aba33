import { deepEqual } from "node:assert/strict";
import test from "node:test";
import { isSignedIn } from "../api/client";
import "./me";
import { go } from "./routing";

test("whoever was signed in leaves nothing behind: the page begins anew, once", () => {
  let count = 0;
  const location = { href: "http://hub/machines", reload: () => count++ };
  const history = { pushState: (_: null, __: string, to: string) => (location.href = `http://hub${to}`) };
  Object.assign(globalThis, { location, history, scrollTo: () => {} });
  const counts = [false, true, false, false].map((is) => {
    isSignedIn.value = is;
    return count;
  });
  deepEqual(counts, [0, 0, 1, 1]);
  go("/sign-in"); // it shows nothing of anybody, and says why the hub refuses somebody else
  isSignedIn.value = true;
  isSignedIn.value = false;
  deepEqual([count, isSignedIn.value], [1, false]);
});
