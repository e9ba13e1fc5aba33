// What is to be done once, however often somebody asks for it.

import { useRef, useState } from "preact/hooks";
import { ApiError, Away, newKey } from "../api/client";

/** True: it may have been done, nobody can tell. */
export const isUnanswered = (error: unknown): boolean =>
  error instanceof Away || (error instanceof ApiError && error.status >= 500);

/** The hub's words for a key that came before with something else; a person knows of no keys. */
export function told(error: unknown): unknown {
  if (!(error instanceof ApiError) || error.code !== "idempotency_conflict") return error;
  return new ApiError(error.status, error.code, "It was done before, though no answer came.", {}, "Close this, and look at what is there.");
}

/** Tries of one thing: by the same key until it is done, so that the hub does it once. */
export class Once {
  private key = newKey();
  private isOpen = false;

  async attempt<T>(doing: (key: string) => Promise<T>): Promise<T> {
    try {
      const done = await doing(this.key);
      this.begin();
      return done;
    } catch (error) {
      if (isUnanswered(error)) this.isOpen = true;
      else if (!this.isOpen) this.begin();
      throw told(error);
    }
  }

  private begin(): void {
    this.key = newKey();
    this.isOpen = false;
  }
}

/** For a form or a button that POSTs by the key that `act` gives: it does nothing while it is busy. */
export function useOnce(): { isBusy: boolean; error: unknown; act: (doing: (key: string) => Promise<unknown>) => Promise<void> } {
  const [once] = useState(() => new Once());
  const [state, setState] = useState<{ isBusy: boolean; error: unknown }>({ isBusy: false, error: null });
  const isBusy = useRef(false);
  const act = async (doing: (key: string) => Promise<unknown>) => {
    if (isBusy.current) return;
    isBusy.current = true;
    setState({ isBusy: true, error: null });
    const error = await once.attempt(doing).then(() => null, (problem: unknown) => problem);
    isBusy.current = false;
    setState({ isBusy: false, error });
  };
  return { ...state, act };
}

/** A click, also a double one: where the hub is quick, it has answered between the two. */
export const clicked = (act: () => void) => (event: MouseEvent): void => {
  if (event.detail < 2) act();
};
