import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import type { Load, Machine, Metrics } from "../../api/types";
import { lineOf, ratesOf, ratesOfSteps } from "../../parts/rates";
import { arrange, type Asked, held, readAsked, sortBy, stateOf, withTag } from "./order";

const ASKED: Asked = { text: "", state: "", sort: "name", isDown: false };

const machine = (name: string, given: Partial<Machine> = {}): Machine => ({
  id: name, name, status: "online", session_status: "CONNECTED", grace_until: null, os: "Debian 13", arch: "x86_64",
  hostname: `${name}.lan`, tags: [], created_at: "2026-01-01T00:00:00Z", last_seen: "2026-01-01T00:00:00Z",
  agent_version: "1.0.0", load: null, ...given,
});

const load = (second: number, given: Partial<Load> = {}): Load => ({
  id: "m", at: `2026-01-01T00:00:${String(second).padStart(2, "0")}.000Z`, cpu_percent: 0, memory_percent: 0,
  disk_percent: 0, network_rx_bytes: 0, network_tx_bytes: 0, uptime_seconds: 0, ...given,
});

const none = () => [];
const names = (asked: Partial<Asked>, machines: Machine[], samples: (id: string) => readonly Load[] = none) =>
  arrange(machines, { ...ASKED, ...asked }, samples).map(({ name }) => name);

test("names with numbers are ordered as people do", () => {
  deepEqual(names({}, [machine("web-10"), machine("web-2"), machine("db")]), ["db", "web-2", "web-10"]);
  deepEqual(names({ isDown: true }, [machine("web-10"), machine("web-2")]), ["web-10", "web-2"]);
});

test("each word must be in the name, the host name or a tag; tag: is one whole tag", () => {
  const fleet = [machine("nas", { tags: ["prod", "disk"] }), machine("web", { tags: ["product"] }), machine("lab")];
  deepEqual(names({ text: "PROD" }, fleet), ["nas", "web"]);
  deepEqual(names({ text: "tag:prod" }, fleet), ["nas"]);
  deepEqual(names({ text: "lan disk" }, fleet), ["nas"]);
  deepEqual(names({ text: "lan nothing" }, fleet), []);
});

test("a machine in its grace is reconnecting, not online", () => {
  const fleet = [machine("a"), machine("b", { session_status: "GRACE_PERIOD" }), machine("c", { status: "offline" })];
  deepEqual(fleet.map(stateOf), ["online", "reconnecting", "offline"]);
  equal(stateOf(machine("d", { status: "offline", last_seen: null })), "never");
  deepEqual(names({ state: "reconnecting" }, fleet), ["b"]);
});

test("what nobody knows comes last, whichever way the order goes", () => {
  const cpu: Record<string, number> = { a: 10, b: 90 };
  const samples = (id: string) => (id in cpu ? [load(1, { cpu_percent: cpu[id]! })] : []);
  const fleet = [machine("new"), machine("a"), machine("b"), machine("off", { status: "offline" })];
  deepEqual(names({ sort: "cpu" }, fleet, samples), ["a", "b", "new", "off"]);
  deepEqual(names({ sort: "cpu", isDown: true }, fleet, samples), ["b", "a", "new", "off"]);
});

test("while rows are pointed at they stay where they are; what comes goes below, what goes leaves", () => {
  const now = [machine("c"), machine("a"), machine("d")];
  deepEqual(held(["a", "b", "c"], now).map(({ id }) => id), ["a", "c", "d"]);
});

test("an order that the address does not know is the one by name", () => {
  deepEqual(readAsked(new URLSearchParams("sort=-hack&state=drop&q=x")), { ...ASKED, text: "x", isDown: true });
  deepEqual(readAsked(new URLSearchParams("sort=-cpu&state=offline")), { text: "", state: "offline", sort: "cpu", isDown: true });
});

test("a head turns its own order round, and begins a load with the most", () => {
  equal(sortBy("cpu", ASKED), "-cpu");
  equal(sortBy("cpu", { ...ASKED, sort: "cpu", isDown: true }), "cpu");
  equal(sortBy("name", ASKED), "-name");
  equal(sortBy("name", { ...ASKED, isDown: true }), null);
});

test("a tag is put into the filter once, and taken out again", () => {
  equal(withTag("nas", "prod"), "nas tag:prod");
  equal(withTag("tag:prod nas", "prod"), "nas");
});

test("a rate is the difference of two samples, and unknown when the counters began anew", () => {
  const samples = [load(0), load(10, { network_rx_bytes: 1000, network_tx_bytes: 50 })];
  deepEqual(ratesOf(samples), { rx: 100, tx: 5 });
  equal(ratesOf(samples.slice(1)), null);
  equal(ratesOf([load(0, { network_rx_bytes: 9 }), load(10)]), null);
  equal(ratesOf([load(5), load(5)]), null);
});

test("a sparkline ends at the newest moment and leaves out what is older than its span", () => {
  equal(lineOf([{ at: 0, percent: 50 }, { at: 500, percent: 25 }, { at: 1000, percent: 120 }], 500), "0,75 100,0");
  equal(lineOf([], 500), "");
});

test("what the hub kept gives a rate before two samples do: of the last step that is over", () => {
  const step = (second: number, rx: number | null) => ({ at: load(second).at, network_rx_bytes: rx, network_tx_bytes: rx });
  const kept = (...points: object[]) => ratesOfSteps({ from: load(0).at, to: load(59).at, step: 10_000, points } as Metrics);
  deepEqual(kept(step(30, 100), step(40, 500), step(50, 1)), { rx: 50, tx: 50 });
  deepEqual(kept(step(30, 100), step(40, null)), { rx: 10, tx: 10 });
  equal(kept(step(50, 1)), null);
});
