import { toast } from "./toast";

/** Put text on the clipboard; also on plain HTTP, where browsers offer no clipboard to pages. */
export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (!isCopied) return toast("This browser does not let pages copy: select the text instead.");
  }
  toast("Copied");
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  return <button type="button" class="small" onClick={() => copy(text)}>{label}</button>;
}

/** A line to paste elsewhere. */
export function CopyLine({ text, label }: { text: string; label: string }) {
  return (
    <div class="copy-line">
      <code tabIndex={0} aria-label={label}>{text}</code>
      <CopyButton text={text} />
    </div>
  );
}
