// One terminal's websocket: it comes back by itself, and goes on where the screen was.

import { ApiError, isSignedIn, newKey, post, said } from "../../api/client";
import type { Terminal } from "../../api/types";
import { leave, openSocket, pauseAfter, SILENT_MS } from "../../state/sockets";
import { Typed } from "./typed";

export type Mode = "operator" | "observer";
export interface Size {
  cols: number;
  rows: number;
}
export type State =
  | { is: "connecting" }
  | { is: "open" }
  | { is: "machine-away" }
  | { is: "lost"; retryAt: number }
  | { is: "ended"; text: string };

/** What a wire tells its screen. */
export interface Screen {
  show(data: Uint8Array): void;
  gap(): void;
  resized(size: Size): void;
  viewers(operators: number, observers: number): void;
  mode(mode: Mode): void;
  state(state: State): void;
  refused(message: string): void;
}

type Told =
  | { type: "hello"; terminal: Terminal; mode: Mode; offset: number }
  | { type: "taken" | "gap"; offset: number }
  | ({ type: "resize" } & Size)
  | { type: "viewers"; operators: number; observers: number }
  | { type: "away" | "back" }
  | { type: "error"; code: string; message: string }
  | { type: "end"; end: string; exit_code: number | null; signal: string | null; message: string | null };

const RESEND_MS = 1000; // not every refusal of keys is told
const LAST_RETRY_MS = 10_000;
const FINAL: Record<number, string> = {
  1009: "The hub took a message for too long.",
  4400: "The hub did not understand this page.",
  4403: "This key may not look at this terminal.",
  4404: "This terminal is gone.",
  4429: "Too many look at terminals of this machine already.",
};

export class Wire {
  private socket: WebSocket | null = null;
  private isOpen = false;
  private isOver = false;
  private offset: number | null = null;
  private typed = new Typed();
  private writer = newKey();
  private failures = 0;
  private retry = 0;
  private resend = 0;
  private silence = 0;

  constructor(
    private readonly id: string,
    private mode: Mode,
    private size: Size,
    private readonly screen: Screen,
  ) {
    void this.dial();
  }

  /** Type; false: too much waits already. */
  type(keys: Uint8Array): boolean {
    if (this.mode === "observer" || this.isOver) return true;
    const isTaken = this.typed.add(keys);
    this.flush();
    return isTaken;
  }

  resize(size: Size): void {
    this.size = size;
    if (this.isOpen && this.mode === "operator") this.say({ type: "resize", ...size });
  }

  /** Take control, or give it away and only look. */
  become(mode: Mode): void {
    this.mode = mode;
    this.again();
  }

  retryNow(): void {
    clearTimeout(this.retry);
    void this.dial();
  }

  close(): void {
    this.isOver = true;
    clearTimeout(this.retry);
    clearTimeout(this.resend);
    this.drop();
  }

  private again(): void {
    if (this.isOver) return;
    this.drop();
    void this.dial();
  }

  private drop(): void {
    const socket = this.socket;
    clearTimeout(this.silence);
    this.socket = null;
    this.isOpen = false;
    leave(socket);
  }

  /** A connection that is dead says nothing of that. */
  private watch(): void {
    clearTimeout(this.silence);
    this.silence = window.setTimeout(() => {
      this.socket?.close(); // also one that does not open
      this.drop();
      if (!this.isOver) this.retryLater();
    }, SILENT_MS);
  }

  private async dial(): Promise<void> {
    this.screen.state({ is: "connecting" });
    const { mode } = this;
    try {
      const { ticket } = await post<{ ticket: string }>(`/terminals/${this.id}/tickets`, { mode });
      if (!this.isOver && mode === this.mode) this.open(ticket);
    } catch (error) {
      if (this.isOver) return;
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) this.end(said(error));
      else this.retryLater();
    }
  }

  private open(ticket: string): void {
    this.drop();
    const socket = openSocket(`/api/v1/terminals/${this.id}/socket`, ["cmdop.terminal.v1", `cmdop.ticket.${ticket}`]);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.watch();
    socket.onopen = () => this.say({ type: "start", offset: this.offset, writer: this.writer, mode: this.mode, ...this.size });
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      this.watch();
      if (typeof data === "string") this.hear(JSON.parse(data) as Told);
      else {
        this.offset = Number(new DataView(data as ArrayBuffer).getBigUint64(0));
        this.screen.show(new Uint8Array(data as ArrayBuffer, 8));
      }
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket !== socket) return;
      this.drop();
      if (this.isOver) return;
      if (code === 4401) isSignedIn.value = false;
      else if (code in FINAL) this.end(reason || FINAL[code]!);
      else this.retryLater();
    };
  }

  private hear(told: Told): void {
    switch (told.type) {
      case "hello":
        this.failures = 0;
        this.isOpen = true;
        if (this.offset !== null && told.offset !== this.offset) this.screen.gap();
        this.offset = told.offset;
        this.screen.mode(told.mode);
        this.screen.resized(told.terminal);
        this.screen.state(told.terminal.stale_since ? { is: "machine-away" } : { is: "open" });
        this.typed.rewind();
        this.flush();
        break;
      case "taken":
        if (this.typed.confirm(told.offset)) this.flush();
        else {
          this.typed.restart();
          this.writer = newKey();
          this.again();
        }
        break;
      case "gap":
        this.offset = told.offset;
        this.screen.gap();
        break;
      case "resize":
        this.screen.resized(told);
        break;
      case "viewers":
        this.screen.viewers(told.operators, told.observers);
        break;
      case "away":
        this.screen.state({ is: "machine-away" });
        break;
      case "back":
        this.screen.state({ is: "open" });
        this.typed.rewind();
        this.flush();
        break;
      case "error":
        this.screen.refused(told.message);
        break;
      case "end":
        this.end(ending(told));
    }
  }

  private flush(): void {
    if (!this.isOpen) return;
    for (const message of this.typed.due()) this.socket?.send(message);
    if (!this.typed.isWaiting || this.resend) return;
    this.resend = window.setTimeout(() => {
      this.resend = 0;
      this.typed.rewind();
      this.flush();
    }, RESEND_MS);
  }

  private say(message: object): void {
    this.socket?.send(JSON.stringify(message));
  }

  private end(text: string): void {
    this.isOver = true;
    clearTimeout(this.resend);
    this.screen.state({ is: "ended", text });
  }

  private retryLater(): void {
    const wait = pauseAfter(this.failures++, LAST_RETRY_MS);
    this.screen.state({ is: "lost", retryAt: Date.now() + wait });
    this.retry = window.setTimeout(() => void this.dial(), wait);
  }
}

/** How a terminal ended, for a person. */
export function ending(of: { end: string | null; exit_code: number | null; signal: string | null; message?: string | null }): string {
  if (of.message) return of.message;
  if (of.signal) return `Ended by ${of.signal}.`;
  if (of.exit_code !== null) return `Ended with exit code ${of.exit_code}.`;
  return { cancelled: "Ended on request.", idle: "Ended: nobody typed for long." }[of.end ?? ""] ?? `Ended: ${of.end}.`;
}
