// What a person has typed and the machine has not taken yet, so that each key is typed once.

const PIECE = 16 * 1024; // the most of one message
const WINDOW = 64 * 1024; // the most that may be under way
const MOST = 1024 * 1024; // typed ahead; more is refused

/** Keys by their offset in all that this writer types. */
export class Typed {
  private bytes = new Uint8Array(0);
  private taken = 0;
  private sent = 0;

  /** Add keys; false: too much waits already, and they are not typed. */
  add(keys: Uint8Array): boolean {
    if (this.bytes.length + keys.length > MOST) return false;
    const joined = new Uint8Array(this.bytes.length + keys.length);
    joined.set(this.bytes);
    joined.set(keys, this.bytes.length);
    this.bytes = joined;
    return true;
  }

  /** True: some are under way. */
  get isWaiting(): boolean {
    return this.sent > this.taken;
  }

  /** The messages that may be sent now: 8 bytes of offset, then keys. */
  *due(): Generator<Uint8Array<ArrayBuffer>> {
    const end = this.taken + this.bytes.length;
    while (this.sent < end) {
      const until = Math.min(end, this.sent + PIECE, this.taken + WINDOW);
      if (until <= this.sent) return;
      const message = new Uint8Array(8 + until - this.sent);
      new DataView(message.buffer).setBigUint64(0, BigInt(this.sent));
      message.set(this.bytes.subarray(this.sent - this.taken, until - this.taken), 8);
      this.sent = until;
      yield message;
    }
  }

  /** All before `offset` is typed; false: the machine has forgotten this writer. */
  confirm(offset: number): boolean {
    if (offset < this.taken) return false;
    this.bytes = this.bytes.slice(offset - this.taken);
    this.taken = offset;
    this.sent = Math.max(this.sent, offset);
    return true;
  }

  /** Send again what was not confirmed. */
  rewind(): void {
    this.sent = this.taken;
  }

  /** Go on as another writer, whose first key is the first that was not confirmed. */
  restart(): void {
    this.taken = this.sent = 0;
  }
}
