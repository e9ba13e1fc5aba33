import { signal } from "@preact/signals";

const shown = signal<{ id: number; text: string }[]>([]);
const SHOWN_MS = 4000;
let last = 0;

/** Say that something went well; a failure stays where it happened instead. */
export function toast(text: string): void {
  const id = ++last;
  shown.value = [...shown.value, { id, text }];
  setTimeout(() => (shown.value = shown.value.filter((each) => each.id !== id)), SHOWN_MS);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {shown.value.map(({ id, text }) => <p key={id}>{text}</p>)}
    </div>
  );
}
