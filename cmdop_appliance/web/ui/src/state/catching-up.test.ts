import { deepEqual, equal, ok } from "node:assert/strict";
import test from "node:test";
import type { Me } from "../api/types";
import { browse } from "../scripted";
import { begin, disconnect, epoch, link } from "./live";
import { loadMachines, machines, machinesProblem } from "./machines";
import { me } from "./me";

const truth = new Map<string, string>();
for (let i = 0; i < 30; i++) truth.set(`m${i}`, "online");
const record = (id: string) => ({ id, name: id, tags: [], load: null, status: truth.get(id) });
const { sockets, asked, pass, waiting } = browse((path) => {
  const one = /machines\/(\w+)$/.exec(path);
  return one ? record(one[1]!) : [...truth.keys()].map(record);
});

me.value = { permissions: ["machines:read"] } as Me;
const HELLO = { type: "hello", seq: 0, version: "1" };
const hub = () => sockets.at(-1)!;
const list = () => asked("/machines")!;
const shown = (id: string) => machines.value!.get(id)!.status as string;
let seq = 0;
async function becomes(id: string, status: string): Promise<void> {
  truth.set(id, status);
  await hub().say({ type: "event", event: { type: `machine.${status}`, seq: ++seq, data: { machine_id: id } } });
}

test("the hello that a page waits for is no reason to ask anew, one that comes late is", async () => {
  const begun = begin();
  await hub().say(HELLO);
  await begun;
  deepEqual([epoch.value, link.value.state], [0, "live"]);
  disconnect();
  const late = begin();
  await pass(2000); // the page does not wait any longer
  await late;
  const loaded = loadMachines();
  await list().answer();
  await loaded;
  truth.set("m0", "offline"); // nobody tells of it
  await hub().say(HELLO);
  await list().answer();
  equal(shown("m0"), "offline");
});

test("what has failed while the hub was away is asked for again when it is back", async () => {
  hub().onclose({ code: 1006 });
  machines.value = undefined; // the first list of a page
  epoch.value++;
  await list().fail();
  ok(machinesProblem.value);
  await pass(500);
  await hub().say(HELLO);
  await list().answer();
  deepEqual([machinesProblem.value, shown("m0")], [null, "offline"]);
});

test("a connection that says nothing is given up for another, one that says something is not", async () => {
  const before = sockets.length;
  for (let i = 0; i < 3; i++) {
    await pass(20_000);
    await hub().say({ type: "beat" });
  }
  equal(sockets.length, before);
  const silent = hub();
  await pass(25_000);
  deepEqual([link.value.state, silent.isClosed], ["away", true]);
  await pass(500);
  equal(sockets.length, before + 1);
  await hub().say(HELLO);
  await silent.say({ type: "gap", from: 1, to: 900 });
  silent.onclose({ code: 1006 });
  equal(link.value.state, "live");
  await list().answer();
  equal(list(), undefined); // the old one is not listened to any more
});

test("a list that is under way does not hide what has changed since", async () => {
  for (let i = 1; i < 26; i++) await becomes(`m${i}`, "online");
  await pass(500);
  const old = list();
  await becomes("m1", "offline");
  await pass(500);
  await old.answer();
  await asked("/machines/m1")!.answer();
  equal(shown("m1"), "offline");
});

test("two answers for one machine do not cross", async () => {
  await becomes("m2", "offline");
  await pass(500);
  const old = asked("/machines/m2")!;
  await becomes("m2", "online");
  await pass(500);
  await waiting.filter((each) => each !== old).at(-1)?.answer();
  await old.answer();
  await asked("/machines/m2")?.answer();
  equal(shown("m2"), "online");
});

test("what was missed while a list was under way is asked for again", async () => {
  epoch.value++;
  const old = list();
  truth.set("m3", "offline");
  await hub().say({ type: "gap", from: 1, to: 2 });
  await old.answer();
  await list().answer();
  equal(shown("m3"), "offline");
  equal(list(), undefined);
});

test("a machine that nobody could tell of is asked for again", async () => {
  await becomes("m4", "offline");
  await pass(500);
  await asked("/machines/m4")!.fail();
  await pass(5000);
  await asked("/machines/m4")!.answer();
  equal(shown("m4"), "offline");
});

test("a key that may not see machines does not ask for them: each refusal is an entry of the audit log", async () => {
  me.value = { permissions: ["commands:execute"] } as Me;
  machines.value = undefined;
  await loadMachines();
  equal(list(), undefined);
});
