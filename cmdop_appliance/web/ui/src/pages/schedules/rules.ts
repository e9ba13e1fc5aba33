// Common rules, made from what a person chooses. The hub reads and explains all of them.

export type Every = "minutes" | "hour" | "day" | "week" | "month";

export interface Choice {
  every: Every;
  /** Of `minutes`: how many. */
  minutes: number;
  /** `HH:MM`; of `hour` only the minutes count. */
  at: string;
  /** Of `week`: 0 is Sunday. */
  days: number[];
  /** Of `month`. */
  day: number;
}

export const FIRST: Choice = { every: "day", minutes: 15, at: "03:00", days: [1], day: 1 };
export const FIELDS = ["minute", "hour", "day of month", "month", "day of week"];

/** The five fields. */
export function cronOf({ every, minutes, at, days, day }: Choice): string {
  const [hour, minute] = at.split(":").map(Number) as [number, number];
  switch (every) {
    case "minutes": return minutes === 1 ? "* * * * *" : `*/${minutes} * * * *`;
    case "hour": return `${minute} * * * *`;
    case "day": return `${minute} ${hour} * * *`;
    case "week": return `${minute} ${hour} * * ${[...days].sort().join(",") || "*"}`;
    case "month": return `${minute} ${hour} ${day} * *`;
  }
}

const number = (text: string, most: number) => (/^\d{1,2}$/.test(text) && Number(text) <= most ? Number(text) : null);
const pad = (value: number) => String(value).padStart(2, "0");

/** The choice that makes this rule; null: it is none of the common ones. */
export function choiceOf(cron: string): Choice | null {
  const [minute = "", hour = "", day = "", month = "", weekday = "", ...more] = cron.trim().split(/\s+/);
  if (more.length || month !== "*") return null;
  const step = cron.trim() === "* * * * *" ? 1 : /^\*\/(\d{1,2})$/.test(minute) && hour === "*" && day === "*" && weekday === "*" ? Number(minute.slice(2)) : 0;
  if (step) return { ...FIRST, every: "minutes", minutes: step };
  const atMinute = number(minute, 59);
  if (atMinute === null) return null;
  if (hour === "*") return day === "*" && weekday === "*" ? { ...FIRST, every: "hour", at: `00:${pad(atMinute)}` } : null;
  const atHour = number(hour, 23);
  if (atHour === null) return null;
  const at = `${pad(atHour)}:${pad(atMinute)}`;
  if (day === "*" && weekday === "*") return { ...FIRST, every: "day", at };
  if (day === "*" && /^[0-6](,[0-6])*$/.test(weekday)) return { ...FIRST, every: "week", at, days: weekday.split(",").map(Number) };
  const onDay = number(day, 31);
  return weekday === "*" && onDay ? { ...FIRST, every: "month", at, day: onDay } : null;
}
