// Text for a shell to read.

/** One word, whatever it holds. */
export function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** A request as a line for a shell in which CMDOP_API_KEY is set. */
export function curl(method: string, path: string, body?: unknown): string {
  const words = ["curl", "-sS", ...(method === "GET" ? [] : ["-X", method]), quoted(`${location.origin}/api/v1${path}`)];
  const parts = [words.join(" "), '-H "Authorization: Bearer $CMDOP_API_KEY"'];
  if (body !== undefined) parts.push('-H "Content-Type: application/json"', `-d ${quoted(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}
