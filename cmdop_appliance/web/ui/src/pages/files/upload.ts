// A file of any size to a machine, in parts: a break costs the part that was under way.

import { sha256 } from "@noble/hashes/sha2.js"; // crypto.subtle is for HTTPS only
import { bytesToHex } from "@noble/hashes/utils.js";
import { address, ApiError, Away, get, isSignedIn } from "../../api/client";

const PART = 4 * 1024 * 1024; // bytes in one request
const HASHED = 1024 * 1024; // bytes at a time, so that the page stays awake
/** So long it is tried again without any byte more. */
const PATIENCE_MS = 120_000;
const LONGEST_PAUSE_MS = 5000;

export interface Sending {
  /** By this the machine knows what has arrived before. */
  uploadId: string;
  /** What has arrived before, as far as is known: it goes on there. */
  from: number;
  signal: AbortSignal;
  progress: (sent: number) => void;
  /** Replace what is there. */
  overwrite: boolean;
}

/** Send a file; it is in place, whole, when this returns. Throws ApiError, Away. */
export async function upload(machineId: string, file: File, path: string, sending: Sending): Promise<void> {
  const at = { path, upload_id: sending.uploadId };
  const digest = sha256.create();
  let hashed = 0;
  let offset = sending.from && (await arrived(machineId, at, sending.from));
  let furthest = offset;
  let movedAt = Date.now();
  let failures = 0;
  const hashUpTo = async (end: number) => {
    while (hashed < end) {
      const until = Math.min(end, hashed + HASHED);
      digest.update(new Uint8Array(await file.slice(hashed, until).arrayBuffer()));
      hashed = until;
    }
  };
  for (;;) {
    const end = Math.min(file.size, offset + PART);
    await hashUpTo(end);
    const last = end === file.size ? { sha256: bytesToHex(digest.clone().digest()), overwrite: sending.overwrite } : {};
    try {
      await putPart(address(`/machines/${machineId}/files/upload`, { ...at, offset, ...last }), file.slice(offset, end), sending.signal);
      if (end === file.size) return;
      offset = end;
    } catch (error) {
      if (!isPassing(error)) throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.min(500 * 2 ** failures++, LONGEST_PAUSE_MS)));
      sending.signal.throwIfAborted();
      offset = await arrived(machineId, at, offset);
      if (offset <= furthest && Date.now() - movedAt > PATIENCE_MS) throw error;
    }
    if (offset > furthest) {
      furthest = offset;
      movedAt = Date.now();
      failures = 0;
    }
    sending.progress(offset);
  }
}

/** True: a hub that restarts, a machine that comes back; a full disk is none of these. */
function isPassing(error: unknown): boolean {
  if (!(error instanceof ApiError)) return error instanceof Away;
  return (error.status >= 500 && error.status !== 507) || ["session_not_active", "offset_mismatch", "rate_limited"].includes(error.code);
}

async function putPart(url: string, part: Blob, signal: AbortSignal): Promise<void> {
  let response: Response;
  try {
    response = await fetch(url, { method: "PUT", body: part, signal, headers: { "Content-Type": "application/octet-stream" } });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Away("The hub does not answer.");
  }
  if (response.ok) return;
  if (response.status === 401) isSignedIn.value = false;
  const { error } = (await response.json().catch(() => ({}))) as { error?: { code: string; message: string; details: Record<string, unknown>; hint?: string } };
  throw new ApiError(response.status, error?.code ?? "", error?.message ?? `HTTP ${response.status}`, error?.details, error?.hint);
}

/** How much of an upload is on the machine; where nobody can tell, what was known before. */
async function arrived(machineId: string, at: { path: string; upload_id: string }, before: number): Promise<number> {
  try {
    return (await get<{ offset: number }>(`/machines/${machineId}/files/upload`, at)).offset;
  } catch (error) {
    return error instanceof ApiError && error.status === 404 ? 0 : before;
  }
}
