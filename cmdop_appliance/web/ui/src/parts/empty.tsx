import type { ComponentChildren } from "preact";

/** What to show where there is nothing yet: what it is, and how to begin. */
export function Empty({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section class="empty">
      <h2>{title}</h2>
      {children}
    </section>
  );
}
