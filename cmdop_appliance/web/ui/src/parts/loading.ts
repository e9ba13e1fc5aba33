import { useEffect, useRef, useState } from "preact/hooks";
import { epoch } from "../state/live";

export interface Loaded<T> {
  /** What came last; undefined before the first answer. */
  data: T | undefined;
  error: unknown;
  reload: () => void;
}

/** Ask for what a page shows: at first, when `inputs` change, and when the hub was away. */
export function useLoad<T>(ask: (signal: AbortSignal) => Promise<T>, inputs: unknown[]): Loaded<T> {
  const [state, setState] = useState<{ data: T | undefined; error: unknown }>({ data: undefined, error: null });
  const [turn, setTurn] = useState(0);
  const latest = useRef(ask);
  latest.current = ask;
  const key = JSON.stringify(inputs);
  const asked = useRef(key);
  useEffect(() => {
    const stop = new AbortController();
    if (asked.current !== key) setState({ data: undefined, error: null });
    asked.current = key;
    latest.current(stop.signal).then(
      (data) => !stop.signal.aborted && setState({ data, error: null }),
      (error: unknown) => !stop.signal.aborted && setState((before) => ({ ...before, error })),
    );
    return () => stop.abort();
  }, [key, turn, epoch.value]);
  return { ...state, reload: () => setTurn((before) => before + 1) };
}

/** `act` at most once in `ms`, the last call always. */
export function paced(ms: number, act: () => void): () => void {
  let timer = 0;
  return () => {
    timer ||= window.setTimeout(() => {
      timer = 0;
      act();
    }, ms);
  };
}
