import { equal, ok } from "node:assert/strict";
import test from "node:test";
import { said } from "../../api/client";
import { upload } from "./upload";

const MIB = 1024 * 1024;
const file = new Blob([new Uint8Array(9 * MIB)]) as File;

/** A hub, and a clock that nobody waits for; `fails`: what it answers to the next requests, null: nothing. */
class Pretended {
  arrived = 0;
  now = 0;
  puts: string[] = [];
  isWhole = false;

  constructor(private readonly fails: (put: number) => [number, string] | null | undefined) {
    globalThis.fetch = (url, asked) => this.answer(new URL(String(url), "http://hub"), asked!);
    globalThis.setTimeout = ((done: () => void, ms: number) => {
      this.now += ms;
      queueMicrotask(done);
    }) as unknown as typeof setTimeout;
    Date.now = () => this.now;
  }

  private async answer({ searchParams }: URL, { method, body }: RequestInit): Promise<Response> {
    if (method === "GET") return Response.json({ data: { offset: this.arrived } });
    const failure = this.fails(this.puts.push(searchParams.get("upload_id")!));
    if (failure === null) throw new TypeError("fetch failed");
    if (failure) return Response.json({ error: { code: failure[1], message: failure[1] } }, { status: failure[0] });
    if (Number(searchParams.get("offset")) !== this.arrived) return Response.json({ error: { code: "offset_mismatch" } }, { status: 409 });
    this.arrived += (body as Blob).size;
    this.isWhole = searchParams.has("sha256");
    return Response.json({ data: {} });
  }

  send = (from = 0, stop = new AbortController()) =>
    upload("mach_1", file, "/x", { uploadId: "up", from, overwrite: false, signal: stop.signal, progress: () => {} }).then(() => "", said);
}

test("an upload outlasts a hub that restarts and a machine that comes back", async () => {
  const hub = new Pretended((put) => (put === 1 || put > 21 ? undefined : put < 5 ? null : put < 9 ? [503, "unavailable"] : [409, "session_not_active"]));
  equal(await hub.send(), "");
  ok(hub.isWhole && hub.arrived === file.size);
  ok(hub.puts.every((id) => id === "up"));
});

test("after two minutes without a byte it ends, and goes on later where it stood", async () => {
  let isThere = true;
  const hub = new Pretended((put) => (put > 1 && !isThere ? [409, "session_not_active"] : void (isThere = false)));
  equal(await hub.send(), "session_not_active");
  ok(hub.now > 120_000 && hub.now < 130_000, String(hub.now));
  isThere = true;
  const before = hub.puts.length;
  hub.arrived += 1000; // of the part that broke
  const next = new Pretended(() => undefined);
  next.arrived = hub.arrived;
  equal(await next.send(4 * MIB), "");
  ok(next.isWhole && next.arrived === file.size);
  equal([before > 20, next.puts.length].join(), "true,2");
});

test("what does not pass ends it at once, and so does whoever stops it", async () => {
  for (const [status, code] of [[507, "storage_full"], [409, "file_exists"], [403, "forbidden"]] as const) {
    const hub = new Pretended(() => [status, code]);
    equal(await hub.send(), code);
    equal(hub.puts.length, 1);
  }
  const stop = new AbortController();
  const hub = new Pretended(() => (stop.abort(), null));
  ok(await hub.send(0, stop));
  equal(hub.puts.length, 1);
});
