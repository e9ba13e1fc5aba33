// A browser for tests: a clock that goes when it is told to, websockets and a hub that say what they are told to.

type Answering = (answer: { status: number; text: () => Promise<string> } & object) => void;

/** A request of the page that waits for its answer. */
export interface Asked {
  path: string;
  headers: Record<string, string>;
  signal: AbortSignal | null;
  /** With what the hub knew when it was asked. */
  answer: () => Promise<void>;
  fail: () => Promise<void>;
}

export class ScriptedSocket {
  static readonly CONNECTING = 0;
  readyState = 1;
  onopen = () => {};
  onmessage = (_: { data: unknown }) => {};
  onclose = (_: { code: number }) => {};
  isClosed = false;
  said = 0;
  send(): void {
    this.said++;
  }
  close(): void {
    this.isClosed = true;
  }
  say(message: object): Promise<void> {
    this.onmessage({ data: JSON.stringify(message) });
    return settled();
  }
}

const turn = globalThis.setTimeout;
/** All that follows at once has happened. */
export const settled = () => new Promise<void>((resolve) => void turn(resolve, 0));

/** What a page finds around it from now on; `known`: what the hub answers to a GET of a path, null: 404. */
export function browse(known: (path: string) => unknown) {
  const sockets: ScriptedSocket[] = [];
  const waiting: Asked[] = [];
  let now = 0;
  let last = 0;
  const timers = new Map<number, { at: number; act: () => void }>();
  const setTimeout = (act: () => void, ms: number) => {
    timers.set(++last, { at: now + ms, act });
    return last;
  };
  const fetch = (url: string, { headers, signal }: { headers: Record<string, string>; signal: AbortSignal | null }) =>
    new Promise((resolve: Answering, reject) => {
      const data = known(url);
      const text = JSON.stringify(data === null ? { error: {} } : { data, meta: { total: 1 } });
      const status = data === null ? 404 : 200;
      const end = (act: () => void) => () => {
        waiting.splice(waiting.indexOf(asked), 1);
        act();
        return settled();
      };
      const asked: Asked = {
        path: url,
        headers,
        signal,
        answer: end(() => resolve({ status, ok: status === 200, text: async () => text } as never)),
        fail: end(() => reject(new TypeError("no route"))),
      };
      waiting.push(asked);
    });
  const WebSocket = class extends ScriptedSocket {
    constructor() {
      super();
      sockets.push(this);
    }
  };
  Object.assign(globalThis, {
    window: globalThis,
    location: { href: "http://hub/" },
    clearTimeout: (id: number) => void timers.delete(id),
    setTimeout,
    fetch,
    WebSocket,
  });
  return {
    sockets,
    waiting,
    /** The request for this path that waits the longest. */
    asked: (path: string) => waiting.find((each) => each.path.split("?")[0] === `/api/v1${path}`),
    async pass(ms: number): Promise<void> {
      for (const end = now + ms; ; ) {
        const due = [...timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
        now = due ? due[1].at : end;
        if (!due) return settled();
        timers.delete(due[0]);
        due[1].act();
        await settled();
      }
    },
  };
}
