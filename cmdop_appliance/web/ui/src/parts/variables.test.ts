import { deepEqual } from "node:assert/strict";
import test from "node:test";
import { linesOf, variablesOf } from "./variables";

test("variables are read line by line, and a value keeps its equals signs", () => {
  const variables = { A: "1", OPTS: "--x=y", EMPTY: "" };
  deepEqual(variablesOf("A=1\n\n  OPTS=--x=y\nEMPTY"), variables);
  deepEqual(variablesOf(linesOf(variables)), variables);
});
