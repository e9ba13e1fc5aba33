// What the page's websockets have in common: where they lead, and when they are given up.

const FIRST_RETRY_MS = 500;

/** The hub says something every 10 s. */
export const SILENT_MS = 25_000;

export function openSocket(path: string, protocols: string[]): WebSocket {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return new WebSocket(url, protocols);
}

/** Let go of a socket that nobody needs; one that is still opening is closed then: browsers complain of less. */
export function leave(socket: WebSocket | null): void {
  if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
  else socket?.close();
}

/** How long to wait (ms) after so many failures; not all pages come back at once. */
export function pauseAfter(failures: number, most: number): number {
  return Math.min(FIRST_RETRY_MS * 2 ** failures, most) * (0.5 + Math.random() / 2);
}
