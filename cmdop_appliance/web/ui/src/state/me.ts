// Who the hub takes this browser for.

import { signal } from "@preact/signals";
import { get, isSignedIn, post, remove } from "../api/client";
import type { Me } from "../api/types";
import { begin, disconnect } from "./live";
import { path } from "./routing";

export const me = signal<Me | null>(null);

/** Ask the hub who we are; `isSignedIn` says whether it knows. Throws Away. */
export async function recognise(): Promise<void> {
  try {
    me.value = await get<Me>("/auth/me");
  } catch (error) {
    if (isSignedIn.value === false) return;
    throw error;
  }
  await begin();
  isSignedIn.value = true;
}

export async function signIn(credential: { link: string } | { key: string }): Promise<void> {
  await post("/sign-ins", credential);
  disconnect(); // whoever it was before
  await recognise();
}

export async function signOut(): Promise<void> {
  await remove("/sign-ins/current");
  isSignedIn.value = false;
}

// Whoever comes next is shown nothing of what is here: the page begins anew, and asks who that is.
let was: boolean | null = null;
isSignedIn.subscribe((is) => {
  if (was && is === false && path.peek() !== "/sign-in") {
    isSignedIn.value = null;
    location.reload();
  }
  was = is;
});

/** True: the key behind this browser may do what needs `scope`. */
export function may(scope: string): boolean {
  const permissions = me.value?.permissions ?? [];
  return permissions.includes(scope) || permissions.includes("admin");
}
