import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { LogText } from "./text";

const encode = (text: string) => new TextEncoder().encode(text);
const shown = (log: LogText) => log.lines.map(({ stream, number, text }) => [stream, number, text]);

test("each stream keeps its lines and its count, whatever comes between", () => {
  const log = new LogText();
  log.write("stdout", "one\ntw");
  log.write("stderr", "oops\n");
  log.write("stdout", "o\nthree\n");
  deepEqual(shown(log), [["stdout", 1, "one"], ["stdout", 2, "two"], ["stderr", 1, "oops"], ["stdout", 3, "three"]]);
});

test("characters that come in pieces are whole", () => {
  const log = new LogText();
  const euro = encode("€");
  log.append("stdout", euro.slice(0, 1));
  log.append("stderr", encode("x"));
  log.append("stdout", euro.slice(1));
  equal(log.copied(), "x\n€");
});

test("lines before the first that is open have settled, and one far back is closed", () => {
  const log = new LogText();
  log.write("stderr", "prompt: ");
  log.write("stdout", "a\nb\n");
  equal(log.settled, 0);
  log.write("stdout", "x\n".repeat(600));
  equal(log.settled, log.lines.length);
  log.write("stderr", "yes\n");
  deepEqual(shown(log).at(-1), ["stderr", 0, "yes"]);
});

test("the first of very many lines go, and those that stay keep their numbers", () => {
  const log = new LogText();
  log.write("stdout", "x\n".repeat(500_001));
  deepEqual([log.dropped, log.lines[0]!.number, log.total], [50_000, 50_001, 500_001]);
});

test("what is copied is what was written, all or some lines", () => {
  const long = "x".repeat(5000);
  const log = LogText.of(`a\n${long}\nb\n`, "e\n");
  equal(log.copied(), `a\n${long}\nb\ne`);
  equal(log.copied({ stream: "stdout", first: 2, last: 3 }), `${long}\nb`);
});

test("what the hub did not keep is told of in its place", () => {
  const log = LogText.of("a");
  log.gap("stdout", 2048);
  log.write("stdout", "b\n");
  deepEqual(shown(log), [["stdout", 1, "a"], [null, 0, "… 2.0 KiB of stdout are not kept …"], ["stdout", 0, "b"]]);
});
