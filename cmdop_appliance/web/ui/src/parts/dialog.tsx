import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";

/** A modal dialog, open as long as it is rendered; Esc and the close button end it, if they may. */
export function Dialog({ title, close, children, wide }: {
  title: string;
  /** Without it the dialog stays until one of its own buttons is pressed. */
  close?: () => void;
  children: ComponentChildren;
  wide?: boolean;
}) {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    const dialog = element.current!;
    dialog.showModal();
    dialog.querySelector<HTMLElement>("input, select, textarea")?.focus();
    return () => {
      dialog.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const isHeld = !close;
  useEffect(() => {
    if (!isHeld) return;
    // Browsers let no page cancel the second of two Escs: it must not become a wish to close.
    const hold = (event: KeyboardEvent) => event.key === "Escape" && event.preventDefault();
    document.addEventListener("keydown", hold);
    return () => document.removeEventListener("keydown", hold);
  }, [isHeld]);
  return (
    <dialog
      ref={element}
      class={wide ? "wide" : ""}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        close?.();
      }}
      onClose={() => {
        // By the second of two Back gestures: no page can hold that either.
        if (element.current) close ? close() : element.current.showModal();
      }}
    >
      <header class="row">
        <h2 id={id}>{title}</h2>
        {close && <button type="button" class="plain push" aria-label="Close" onClick={close}>✕</button>}
      </header>
      {children}
    </dialog>
  );
}
