import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { above, below, crumbs, imageType } from "./paths";

test("a path is shown as the directories that lead to it", () => {
  deepEqual(crumbs("/var/log").map((each) => each.path), ["/", "/var", "/var/log"]);
  deepEqual(crumbs("/").map((each) => each.path), ["/"]);
});

test("up and down lead back to the same place", () => {
  for (const path of ["/a", "/var/log/x"]) equal(below(above(path), path.split("/").at(-1)!), path);
  equal(above("/"), "/");
});

test("only pictures that can do nothing are shown", () => {
  equal(imageType("a.PNG"), "image/png");
  equal(imageType("a.svg"), null);
});
