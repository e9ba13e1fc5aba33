import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { browse, ScriptedSocket } from "../../scripted";
import { type Screen, type State, Wire } from "./wire";

test("a terminal whose connection says nothing is looked at by another, one that says something is not", async () => {
  const { sockets, asked, pass } = browse(() => ({ ticket: "t" }));
  const states: State["is"][] = [];
  const screen = { state: ({ is }: State) => states.push(is), mode() {}, resized() {}, gap() {} } as unknown as Screen;
  const wire = new Wire("term_1", "observer", { cols: 80, rows: 24 }, screen);
  await asked("/terminals/term_1/tickets")!.answer();
  await sockets[0]!.say({ type: "hello", terminal: {}, mode: "observer", offset: 0 });
  await pass(20_000);
  await sockets[0]!.say({ type: "beat" });
  await pass(20_000);
  equal(states.at(-1), "open");
  await pass(5000);
  deepEqual([states.at(-1), sockets[0]!.isClosed], ["lost", true]);
  await pass(500);
  await asked("/terminals/term_1/tickets")!.answer();
  equal(sockets.length, 2);
  wire.close();
  await pass(60_000);
  equal(sockets.length, 2);
});

test("a connection that is left while it opens is closed when it has, and says nothing", async () => {
  const { sockets, asked } = browse(() => ({ ticket: "t" }));
  const wire = new Wire("term_1", "operator", { cols: 80, rows: 24 }, { state() {} } as unknown as Screen);
  await asked("/terminals/term_1/tickets")!.answer();
  const left = sockets[0]!;
  left.readyState = ScriptedSocket.CONNECTING;
  wire.become("observer");
  equal(left.isClosed, false);
  await asked("/terminals/term_1/tickets")!.answer();
  left.onopen();
  deepEqual([left.isClosed, left.said, sockets[1]!.said], [true, 0, 0]);
  wire.close();
});
