import { deepEqual, equal, ok } from "node:assert/strict";
import test from "node:test";
import { segments } from "./segments";
import { look, PLAIN, restyled } from "./style";
import { type Line, LONGEST, Writer } from "./writer";

function written(...parts: string[]): Line[] {
  const lines: Line[] = [];
  const writer = new Writer("stdout", (line) => lines.push(line));
  for (const part of parts) writer.write(part);
  return lines;
}
const texts = (...parts: string[]) => written(...parts).map((line) => line.text);
const looks = (line: Line) => segments(line).map(({ text, look: { class: name, style } }) => [text, name, style.color ?? style.background ?? ""]);

test("lines are parted by line feeds, also by a terminal's, and empty ones are lines", () => {
  deepEqual(texts("a\n\nb\r\nc"), ["a", "", "b", "c"]);
  deepEqual(written("a\n\nb").map((line) => line.number), [1, 2, 3]);
});

test("a carriage return writes over the line, as a progress bar does", () => {
  deepEqual(texts("10%\r50%\r100%\ndone"), ["100%", "done"]);
  deepEqual(texts("long text\rlo"), ["long text"]);
  deepEqual(texts("long text\r\x1b[Kok"), ["ok"]);
  deepEqual(texts("abc\r\x1b[2Kx"), ["x"]);
  deepEqual(texts("abc\x1b[1Gx"), ["xbc"]);
  deepEqual(texts("ab\bc"), ["ac"]);
});

test("what is written over takes the new colour, and the rest keeps its own", () => {
  const [line] = written("\x1b[31mabcdef\r\x1b[32mxy");
  deepEqual(looks(line!), [["xy", "fg-2", ""], ["cdef", "fg-1", ""]]);
});

test("16, 256 and true colours and attributes are kept, over lines and pieces", () => {
  deepEqual(looks(written("\x1b[1;3;91mx\x1b[0my")[0]!), [["x", "bold italic fg-9", ""], ["y", "", ""]]);
  deepEqual(looks(written("\x1b[38;5;196mx")[0]!), [["x", "", "rgb(255 0 0)"]]);
  deepEqual(looks(written("\x1b[48;5;244mx")[0]!), [["x", "", "rgb(128 128 128)"]]);
  deepEqual(looks(written("\x1b[38;2;1;2;3mx")[0]!), [["x", "", "rgb(1 2 3)"]]);
  deepEqual(looks(written("\x1b[3", "2mgre", "en\nmore")[1]!), [["more", "fg-2", ""]]);
  deepEqual(looks(written("\x1b[31;7mx\x1b[27my")[0]!), [["x", "fg-back bg-1", ""], ["y", "fg-1", ""]]);
});

test("colours that are none are not taken, and nothing hides text", () => {
  for (const odd of ["38;5;999", "38;2;300;0;0", "48;7", "8", "5", "38"]) equal(look(restyled(PLAIN, odd)).key.trim(), "", odd);
  equal(look(restyled(restyled(PLAIN, "1;31"), "")).key.trim(), "");
});

test("other control sequences and characters are dropped, whole or in pieces", () => {
  const dropped = [
    "\x1b]0;title\x07", "\x1b]8;;http://evil/\x1b\\", "\x1bP1;2|data\x1b\\", "\x1b[?25l", "\x1b[2J", "\x1b[5A",
    "\x1b(B", "\x1b7", "\x1bc", "\x07", "\x00", "\x9b", "\x7f",
  ];
  for (const sequence of dropped) {
    deepEqual(texts(`a${sequence}b`), ["ab"], JSON.stringify(sequence));
    deepEqual(texts("a", ...sequence, "b"), ["ab"], JSON.stringify(sequence));
  }
});

test("a string that does not end cannot swallow the lines behind it", () => {
  deepEqual(texts("a\x1b]0;title\nb"), ["a", "b"]);
  ok(texts("a", `\x1b]${"x".repeat(9000)}`, "b").join("").endsWith("xb"));
});

test("a line of any length is many, which count as one", () => {
  const lines = written("x".repeat(2 * LONGEST + 1), "y\nz");
  deepEqual(lines.map((line) => [line.text.length, line.number]), [[LONGEST, 1], [LONGEST, 0], [2, 0], [1, 2]]);
  equal(written(`${"x".repeat(LONGEST - 1)}😀`)[1]!.text, "😀");
});
