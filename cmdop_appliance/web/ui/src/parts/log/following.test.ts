import { deepEqual } from "node:assert/strict";
import test from "node:test";
import { signal } from "@preact/signals";
import { settled } from "../../scripted";
import { followWhileVisible } from "./following";
import { LogText } from "./text";

test("a page that nobody sees holds no connection, and goes on where it was", async () => {
  const page = Object.assign(new EventTarget(), { hidden: false });
  const asked: { behind: string | undefined; stop: AbortSignal; say: (id: number, text: string) => Promise<void> }[] = [];
  const encoder = new TextEncoder();
  const fetch = async (_: string, { headers, signal: stop }: { headers: Record<string, string>; signal: AbortSignal }) => {
    let out: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (out = controller) });
    const say = (id: number, text: string) => {
      const data = JSON.stringify({ data: btoa(text) });
      out.enqueue(encoder.encode(`id: ${id}\nevent: stdout\ndata: ${data}\n\n`));
      return settled();
    };
    asked.push({ behind: headers["Last-Event-ID"], stop, say });
    return new Response(body);
  };
  Object.assign(globalThis, { document: page, fetch });
  const show = (isVisible: boolean) => {
    page.hidden = !isVisible;
    page.dispatchEvent(new Event("visibilitychange"));
    return settled();
  };
  const following = { log: new LogText(), end: signal(null), error: signal<unknown>(null) };
  const stop = followWhileVisible("cmd_1", following);
  await settled();
  await asked[0]!.say(7, "one\n");
  await show(false);
  deepEqual([asked.length, asked[0]!.stop.aborted], [1, true]);
  await show(true);
  deepEqual([asked.length, asked[1]!.behind, following.error.value], [2, "7", null]);
  await asked[1]!.say(8, "two\n");
  await asked[0]!.say(8, "two\n"); // nobody listens there
  deepEqual(following.log.lines.filter(({ text }) => text).map(({ text }) => text), ["one", "two"]);
  stop();
  await show(true);
  deepEqual([asked.length, asked[1]!.stop.aborted], [2, true]);
});
