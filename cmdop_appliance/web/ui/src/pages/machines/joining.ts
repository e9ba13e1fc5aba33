// A token for machines that are to join, the lines that use it, and who has come by it.

import { signal } from "@preact/signals";
import { post } from "../../api/client";
import type { EnrolmentToken, HubEvent, Id, Program, Programs } from "../../api/types";
import { quoted } from "../../parts/shell";
import { onEvent } from "../../state/live";

export interface Wish {
  max_uses: number;
  /** ms */
  ttl: number;
  tags: string[];
}

export interface Joined {
  id: Id;
  name: string;
  /** ms since it was waited for; null: it has joined, and is not online yet */
  took: number | null;
}

/** The token that is offered; it is the same for as long as it is good, and known to this page alone. */
export const offer = signal<EnrolmentToken | null>(null);
export const joined = signal<readonly Joined[]>([]);

let waitsSince = 0;
let stopListening = () => undefined as void;

/** True: whoever has the token can still join by it. */
export function isGood(token: EnrolmentToken | null, arrived: number, now: number): boolean {
  return token !== null && arrived < token.max_uses && now < Date.parse(token.expires_at);
}

/** Who has come was seen; a token that is used up is offered no more. */
export function forgetUsed(): void {
  if (!isGood(offer.value, joined.value.length, Date.now())) offer.value = null;
}

/** The token on offer, or a new one where there is none; a `wish` always makes a new one. */
export async function offerToken(wish?: Wish): Promise<void> {
  waitsSince = Date.now();
  if (!wish && offer.value) return; // who has joined by one that is used up is still being greeted
  offer.value = await post<EnrolmentToken>("/enrollment-tokens", wish ?? {});
  joined.value = [];
  waitsSince = Date.now();
  stopListening();
  stopListening = onEvent("machine.", hear);
}

/** Once nobody looks any more: the next who does is offered one that is good. */
export function forgetUsedUp(): void {
  if (!isGood(offer.value, joined.value.length, Date.now())) offer.value = null;
}

function hear({ type, data }: HubEvent): void {
  const id = String(data.machine_id);
  if (type === "machine.registered") {
    joined.value = [...joined.value, { id, name: String(data.name), took: null }];
  } else if (type === "machine.online") {
    const took = Date.now() - waitsSince;
    joined.value = joined.value.map((each) => (each.id === id ? { ...each, took } : each));
  }
}

/** What the hub hands out; nothing when it has no program, or is older than this page. */
export async function loadPrograms(): Promise<Programs> {
  const response = await fetch("/dl", { cache: "no-store" });
  return response.ok ? ((await response.json()) as Programs) : { files: [], key_pin: null, public_url: null };
}

/** Fetches cmdop, checks it, installs it and joins. `pin`: by which curl knows the hub, if nobody vouches for it. */
export const oneLine = (hub: string, token: string, pin: string | null): string =>
  `${curl(pin)} ${quoted(`${hub}/dl/join.sh`)} | CMDOP_JOIN_KEY=${quoted(token)} sh`;

/** The same in steps that can be looked at. */
export function byHand(hub: string, token: string, program: Program | undefined, pin: string | null): string[] {
  const plain = hub.startsWith("http:") && !isLocal(new URL(hub).hostname) ? " --plain-http" : "";
  const join = (cmdop: string) => `${cmdop} agent --hub ${quoted(hub)}${plain} --token ${quoted(token)}`;
  if (!program) return [join("cmdop")];
  const file = quoted(program.name);
  return [
    `${curl(pin)} -O ${quoted(`${hub}/dl/${program.name}`)}`,
    `echo ${quoted(`${program.sha256}  ${program.name}`)} | sha256sum -c && chmod +x ${file}`,
    join(`./${file}`),
  ];
}

const curl = (pin: string | null): string => (pin ? `curl -fsSLk --pinnedpubkey ${quoted(pin)}` : "curl -fsSL");

/** True: a machine elsewhere does not find the hub at this address. */
export const isLocal = (hostname: string): boolean => /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);

export const TTLS: readonly (readonly [number, string])[] = [
  [3_600_000, "an hour"],
  [86_400_000, "a day"],
  [7 * 86_400_000, "a week"],
  [30 * 86_400_000, "30 days"],
];
