// The output of a command as a log shows it: the lines of its streams in the order in which they
// began. Each stream counts its own, so that a line keeps its number.

import { signal } from "@preact/signals";
import { bytes } from "../format";
import { has, type Lines } from "./links";
import { type Line, type Stream, Writer } from "./writer";

/** More lines than these, and the first of them go. */
const MOST_LINES = 500_000;
const DROPPED_AT_ONCE = 50_000;
/** A line that is so far from the end changes no more: what its stream writes goes on in another. */
const FAR = 500;

export class LogText {
  readonly lines: Line[] = [];
  /** Lines that are here no more. */
  dropped = 0;
  /** Characters of the longest. */
  longest = 0;
  /** Grows with every change. */
  readonly version = signal(0);

  private readonly writers: Record<Stream, Writer>;
  private readonly decoders: Record<Stream, TextDecoder>;

  constructor() {
    const begin = (line: Line) => void this.lines.push(line);
    this.writers = { stdout: new Writer("stdout", begin), stderr: new Writer("stderr", begin) };
    this.decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  }

  /** A log of text that is here already. */
  static of(stdout: string, stderr = ""): LogText {
    const log = new LogText();
    log.write("stdout", stdout);
    log.write("stderr", stderr);
    return log;
  }

  /** Lines so far, also those that went. */
  get total(): number {
    return this.dropped + this.lines.length;
  }

  /** Lines before this one change no more. */
  get settled(): number {
    let from = this.lines.length;
    for (const { open } of Object.values(this.writers)) {
      if (open) from = Math.min(from, this.lines.lastIndexOf(open));
    }
    return Math.max(0, from);
  }

  append(stream: Stream, data: Uint8Array): void {
    this.write(stream, this.decoders[stream].decode(data, { stream: true }));
  }

  write(stream: Stream, text: string): void {
    const from = this.settled;
    this.writers[stream].write(text);
    for (let at = from; at < this.lines.length; at++) {
      this.longest = Math.max(this.longest, this.lines[at]!.text.length);
    }
    this.grown();
  }

  /** Bytes of a stream that the hub did not keep. */
  gap(stream: Stream, size: number): void {
    this.writers[stream].breakLine();
    this.lines.push({ stream: null, number: 0, text: `… ${bytes(size)} of ${stream} are not kept …`, marks: [] });
    this.grown();
  }

  /** Where a line is; -1: it is not here. */
  find(stream: Stream, number: number): number {
    return this.lines.findIndex((line) => line.stream === stream && line.number === number);
  }

  /** What a log says, or these lines of it, as one would copy it. */
  copied(wanted: Lines | null = null): string {
    let isWanted = wanted === null;
    let text = "";
    for (const { stream, number, text: part } of this.lines) {
      if (wanted && (number || stream !== wanted.stream)) isWanted = has(wanted, stream, number);
      if (isWanted) text += (number || !stream ? "\n" : "") + part;
    }
    return text.slice(1);
  }

  private grown(): void {
    for (const writer of Object.values(this.writers)) {
      if (writer.open && this.lines.lastIndexOf(writer.open) < this.lines.length - FAR) writer.breakLine();
    }
    if (this.lines.length > MOST_LINES) {
      this.lines.splice(0, DROPPED_AT_ONCE);
      this.dropped += DROPPED_AT_ONCE;
    }
    this.version.value++;
  }
}
