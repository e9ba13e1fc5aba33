// Dark, light, or as the system has it; each browser remembers its own.

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const KEY = "cmdop.theme";

export const theme = signal<Theme>(stored());

function stored(): Theme {
  const value = remembered(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

export function applyTheme(): void {
  effect(() => {
    const { dataset } = document.documentElement;
    if (theme.value === "system") delete dataset.theme;
    else dataset.theme = theme.value;
    remember(KEY, theme.value);
  });
}

/** What this browser was told to remember; null: nothing, or it is not allowed to. */
export function remembered(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // a private window: it is asked again next time
  }
}
