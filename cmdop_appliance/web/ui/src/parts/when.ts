// Times as people read them.

/** The distance of a time from `now` (ms since 1970): `3 min ago`, `in 2 h`. */
export function distance(at: number, now: number): string {
  const seconds = Math.round(Math.abs(now - at) / 1000);
  if (seconds < 5) return "now";
  const [size, unit] = ([[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]] as const).find(([least]) => seconds >= least)!;
  const text = `${Math.floor(seconds / size)} ${unit}`;
  return at > now ? `in ${text}` : `${text} ago`;
}

const pad = (value: number) => String(value).padStart(2, "0");

/** `2026-11-22 14:03:07`, in the browser's zone. */
export function clock(at: number): string {
  const time = new Date(at);
  const date = [time.getFullYear(), pad(time.getMonth() + 1), pad(time.getDate())].join("-");
  return `${date} ${[time.getHours(), time.getMinutes(), time.getSeconds()].map(pad).join(":")}`;
}
