import { useState } from "preact/hooks";
import { type Held, sequence } from "./sequences";

const ROW: [string, string, string?][] = [
  ["Esc", "Escape"], ["Tab", "Tab"], ["^C", "\x03", "Ctrl C"], ["^D", "\x04", "Ctrl D"], ["/", "/"], ["-", "-"], ["|", "|"], ["~", "~"],
  ["←", "ArrowLeft", "Left"], ["↑", "ArrowUp", "Up"], ["↓", "ArrowDown", "Down"], ["→", "ArrowRight", "Right"],
  ["PgUp", "PageUp"], ["PgDn", "PageDown"],
];

/** Keys that a phone has not. Ctrl and Alt hold for the next key of this row. */
export function Keys({ send, isApplication }: { send: (text: string) => void; isApplication: () => boolean }) {
  const [held, setHeld] = useState<Held>({ ctrl: false, alt: false });
  const hold = (name: keyof Held) => setHeld({ ...held, [name]: !held[name] });
  return (
    <div class="keys-row" role="toolbar" aria-label="Keys">
      <button type="button" aria-pressed={held.ctrl} onClick={() => hold("ctrl")}>Ctrl</button>
      <button type="button" aria-pressed={held.alt} onClick={() => hold("alt")}>Alt</button>
      {ROW.map(([label, key, name]) => (
        <button
          type="button"
          key={key}
          aria-label={name}
          onClick={() => {
            send(sequence(key, held, isApplication()));
            setHeld({ ctrl: false, alt: false });
          }}
        >
          {label}
        </button>
      ))}
    </div>
  );
}
