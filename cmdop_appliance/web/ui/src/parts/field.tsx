import type { ComponentChildren } from "preact";

/** A labelled input; the input is the child. */
export function Field({ label, hint, error, children }: {
  label: string;
  hint?: ComponentChildren;
  error?: unknown;
  children: ComponentChildren;
}) {
  return (
    <label class="field">
      <span>{label}</span>
      {children}
      {hint && <small class="dim">{hint}</small>}
      {error != null && error !== "" && <small class="wrong" role="alert">{String(error)}</small>}
    </label>
  );
}

/** Why the hub refused this field, of what `problem` says. */
export function reasonOf(problem: unknown, field: string): string {
  const details = (problem as { details?: Record<string, unknown> } | null)?.details;
  return String(details?.[field] ?? "");
}
