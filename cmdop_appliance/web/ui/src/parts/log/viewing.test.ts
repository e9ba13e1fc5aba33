import { deepEqual, equal, ok, throws } from "node:assert/strict";
import test from "node:test";
import { Layout, rowsOf } from "./layout";
import { has, readLines, writeLines } from "./links";
import { pattern, Search, spans } from "./search";
import { segments } from "./segments";
import { EventReader } from "./sse";
import { LogText } from "./text";

test("wrapped lines take as many rows as they need", () => {
  deepEqual(["", "x".repeat(80), "x".repeat(81), "語".repeat(41), "\tx"].map((text) => rowsOf(text, 80)), [1, 1, 2, 2, 1]);
  equal(rowsOf("x".repeat(1000), Infinity), 1);
});

test("a row finds its line, also behind lines that have grown", () => {
  const layout = new Layout(10);
  const lines = [{ text: "x" }, { text: "x".repeat(25) }, { text: "x" }];
  layout.update(lines, 0);
  deepEqual([-5, 0, 1, 3, 4, 99].map((row) => layout.at(row)), [0, 0, 1, 1, 2, 2]);
  lines[2]!.text = "x".repeat(11);
  layout.update(lines, 2);
  deepEqual([layout.topOf(2), layout.height, layout.size], [4, 6, 3]);
});

test("text is looked for as it is written, and as an expression, in either case", () => {
  deepEqual(spans("a.b A.B axb", pattern("a.b", false)!), [[0, 3], [4, 7]]);
  deepEqual(spans("a.b A.B axb", pattern("a.b", true)!), [[0, 3], [4, 7], [8, 11]]);
  deepEqual(spans("aaa", pattern("x*", true)!), []);
  equal(pattern("", true), null);
  throws(() => pattern("(", true), /Invalid/);
});

test("a search goes over all lines in slices, and on as there are more", () => {
  const log = LogText.of("no\nyes\n".repeat(4000));
  const search = new Search(pattern("yes", false)!);
  let slices = 1;
  while (search.step(log.lines, log.settled)) slices++;
  deepEqual([search.lines.length, slices], [4000, 2]);
  log.write("stdout", "yes\n");
  search.step(log.lines, log.settled);
  equal(search.lines.at(-1), 8000);
  search.shift(8000);
  deepEqual(search.lines, [0]);
});

test("what is found stands out within its colours", () => {
  const line = LogText.of("\x1b[31mred\x1b[0m plain").lines[0]!;
  deepEqual(
    segments(line, spans(line.text, pattern("d p", false)!)).map(({ text, look, isFound }) => [text, look.class, isFound]),
    [["re", "fg-1", false], ["d", "fg-1", true], [" p", "", true], ["lain", "", false]],
  );
});

test("lines stand in an address, and nothing else does", () => {
  deepEqual(readLines("L120-140"), { stream: "stdout", first: 120, last: 140 });
  deepEqual(readLines("E3"), { stream: "stderr", first: 3, last: 3 });
  deepEqual(readLines("L9-L5"), { stream: "stdout", first: 5, last: 9 });
  for (const odd of ["", "L", "Lx", "L1-", "top"]) equal(readLines(odd), null);
  equal(writeLines({ stream: "stderr", first: 3, last: 5 }), "E3-5");
  equal(writeLines({ stream: "stdout", first: 3, last: 3 }), "L3");
  ok(has(readLines("L2-4"), "stdout", 3) && !has(readLines("L2-4"), "stderr", 3));
});

test("server-sent events are read however they are cut", () => {
  const text = ': keep-alive\n\nevent: stdout\nid: 3-0\ndata: {"a":\ndata: 1}\n\nid: 4-0\r\ndata: x: y\r\n\r\nevent: none\n\n';
  const wanted = [
    { event: "stdout", data: '{"a":\n1}', id: "3-0" },
    { event: "message", data: "x: y", id: "4-0" },
  ];
  deepEqual(new EventReader().read(text), wanted);
  const reader = new EventReader();
  deepEqual([...text].flatMap((char) => reader.read(char)), wanted);
});
