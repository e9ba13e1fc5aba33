// The public HTTP API, as the browser's sign-in allows it. There is no private door.

import { signal } from "@preact/signals";
import type { ListMeta } from "./types";

/** Whether the hub takes this browser for somebody; null: not known yet. */
export const isSignedIn = signal<boolean | null>(null);

/** What the hub refused, in its own words. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: Record<string, unknown> = {},
    readonly hint = "",
    readonly requestId = "",
  ) {
    super(message);
  }
}

/** Nobody answered. */
export class Away extends Error {}

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
export type Query = Record<string, string | number | boolean | undefined | null>;

export interface Answer<T> {
  data: T;
  meta: ListMeta;
}

export interface Asked {
  query?: Query | undefined;
  body?: unknown;
  signal?: AbortSignal | undefined;
  /** By this the hub knows a POST that is sent again; one of its own, unless given. */
  key?: string | undefined;
}

/** `/api/v1` + path, with those of the query that are given; a path of another plane as it is. */
export function address(path: string, query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `${path.startsWith("/api/") ? "" : "/api/v1"}${path}${text && `?${text}`}`;
}

/** One request. Throws ApiError for a refusal, Away when nobody answers. */
export async function call<T>(method: Method, path: string, asked: Asked = {}): Promise<Answer<T>> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (asked.body !== undefined) headers["Content-Type"] = "application/json";
  if (method === "POST") headers["Idempotency-Key"] = asked.key ?? newKey();
  let response: Response;
  let text: string;
  try {
    response = await fetch(address(path, asked.query), {
      method,
      headers,
      body: asked.body === undefined ? null : JSON.stringify(asked.body),
      signal: asked.signal ?? null,
      credentials: "same-origin",
      cache: "no-store",
    });
    text = await response.text();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Away("The hub does not answer.");
  }
  return read<T>(response, text);
}

function read<T>(response: Response, text: string): Answer<T> {
  let answer: Record<string, any>;
  try {
    answer = JSON.parse(text) as Record<string, any>;
  } catch {
    throw new Away(`What answered is not the hub (HTTP ${response.status}).`);
  }
  if (response.ok) return answer as unknown as Answer<T>;
  if (response.status === 401) isSignedIn.value = false;
  const error = typeof answer.error === "object" ? answer.error : { message: answer.error };
  throw new ApiError(
    response.status,
    error.code ?? "",
    error.message ?? `The hub answered HTTP ${response.status}.`,
    error.details,
    error.hint,
    answer.meta?.request_id,
  );
}

export const get = async <T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> =>
  (await call<T>("GET", path, { query, signal })).data;

export const list = <T>(path: string, query?: Query, signal?: AbortSignal): Promise<Answer<T[]>> =>
  call<T[]>("GET", path, { query, signal });

export const post = async <T>(path: string, body: unknown = {}, key?: string): Promise<T> =>
  (await call<T>("POST", path, { body, key })).data;

export const patch = async <T>(path: string, body: unknown): Promise<T> =>
  (await call<T>("PATCH", path, { body })).data;

export const put = async <T>(path: string, body: unknown): Promise<T> =>
  (await call<T>("PUT", path, { body })).data;

export const remove = async <T = { deleted: true }>(path: string, query?: Query): Promise<T> =>
  (await call<T>("DELETE", path, { query })).data;

const PAGE = 100; // the most the hub gives at once

/** All items of a list, at most `most` of them, the pages behind the first side by side. */
export async function all<T>(path: string, query: Query = {}, most = 10_000): Promise<T[]> {
  const first = await list<T>(path, { ...query, limit: PAGE });
  const offsets: number[] = [];
  for (let at = PAGE; at < Math.min(first.meta.total, most); at += PAGE) offsets.push(at);
  const rest = await Promise.all(
    offsets.map((offset) => list<T>(path, { ...query, limit: PAGE, offset })),
  );
  return [first, ...rest].flatMap((page) => page.data);
}

/** By this the hub knows a request that comes twice. (crypto.randomUUID is for HTTPS only.) */
export function newKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}

/** What to tell a person of anything that was thrown. */
export function said(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (!(error instanceof ApiError)) return error.message;
  const fields = error.code === "validation_failed"
    ? Object.entries(error.details).map(([field, reason]) => `${field}: ${String(reason)}`)
    : [];
  return [error.message, ...fields].join("; ");
}
