import { useState } from "preact/hooks";
import { list, type Query } from "../api/client";
import { type Loaded, useLoad } from "./loading";

const STEP = 50;
const MOST = 100; // the most the hub gives at once

export interface Listing<T> extends Loaded<T[]> {
  rows: T[];
  total: number;
  more: () => void;
}

/** The newest of a list, and more of them when somebody asks. */
export function useListing<T>(path: string, query: Query = {}): Listing<T> {
  const key = JSON.stringify([path, query]);
  const [wanted, setWanted] = useState({ key, count: STEP });
  const count = wanted.key === key ? wanted.count : STEP;
  const [total, setTotal] = useState(0);
  const loaded = useLoad(async (signal) => {
    const rows: T[] = [];
    let all = count;
    while (rows.length < Math.min(count, all)) {
      const page = await list<T>(path, { ...query, limit: Math.min(MOST, count - rows.length), offset: rows.length }, signal);
      rows.push(...page.data);
      all = page.meta.total;
      if (!page.data.length) break;
    }
    setTotal(rows.length < count ? rows.length : all);
    return rows;
  }, [key, count]);
  // While more is on its way, what is there stays.
  const [before, setBefore] = useState<{ key: string; rows: T[] }>({ key, rows: [] });
  if (loaded.data && loaded.data !== before.rows) setBefore({ key, rows: loaded.data });
  const rows = loaded.data ?? (before.key === key ? before.rows : []);
  return { ...loaded, rows, total, more: () => setWanted({ key, count: count + STEP }) };
}

/** How much of a list is shown, and the way to more. */
export function More<T>({ of }: { of: Listing<T> }) {
  if (of.total <= of.rows.length) return null;
  return (
    <p class="dim">
      Showing {of.rows.length} of {of.total}. <button type="button" class="small" onClick={of.more}>More</button>
    </p>
  );
}
