// Server-sent events out of a response's text (WHATWG HTML § 9.2.6).

export interface Sent {
  event: string;
  data: string;
  id: string;
}

export class EventReader {
  private rest = "";
  private event = "";
  private data: string[] = [];
  private id = "";

  /** The events that this text completes. */
  read(text: string): Sent[] {
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop()!;
    return lines.flatMap((line) => this.take(line) ?? []);
  }

  private take(line: string): Sent | null {
    if (line) {
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line)!;
      if (name === "event") this.event = value!;
      else if (name === "data") this.data.push(value!);
      else if (name === "id") this.id = value!;
      return null;
    }
    const sent = { event: this.event || "message", data: this.data.join("\n"), id: this.id };
    const isOne = this.data.length > 0;
    this.event = "";
    this.data = [];
    return isOne ? sent : null;
  }
}
