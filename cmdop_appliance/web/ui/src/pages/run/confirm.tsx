import { useState } from "preact/hooks";
import { Dialog } from "../../parts/dialog";
import { Field } from "../../parts/field";
import { counted } from "../../parts/format";
import type { Named } from "./fold";
import { isRisky, MANY } from "./risks";

/** Shown before what one might regret: all of the command, and every machine. */
export function Confirm({ machines, command, asks, close, run, forget }: {
  machines: readonly Named[];
  command: string;
  asks: "yes" | "count";
  close: () => void;
  run: () => void;
  /** It was sent before, and not answered: do not send it again. */
  forget?: (() => void) | undefined;
}) {
  const [text, setText] = useState("");
  const count = machines.length;
  return (
    <Dialog title={forget ? "Did this run?" : `Run this on ${counted(count, "machine")}?`} close={close} wide>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          run();
        }}
      >
        <pre class="asked" tabIndex={0} aria-label="Command">{command}</pre>
        {forget && <p>You ran this before, and no answer came. Sent again as it was then, it runs nowhere twice, and shows its results.</p>}
        {!forget && <p>{isRisky(command) ? "It looks as if it destroyed something, or stopped machines" : `More than ${MANY} machines are many`}: so you are asked first.</p>}
        <p class="asked-hosts">{machines.map((machine) => machine.name).join(", ")}</p>
        {asks === "count" && (
          <Field label={`Type ${count} to run it`}>
            <input inputMode="numeric" autocomplete="off" value={text} autofocus onInput={(event) => setText(event.currentTarget.value)} />
          </Field>
        )}
        <p class="row">
          <button class="main danger-main" disabled={asks === "count" && text.trim() !== String(count)}>{forget ? "Send it again" : `Run on ${counted(count, "machine")}`}</button>
          {forget && <button type="button" onClick={forget}>Forget it</button>}
          <button type="button" onClick={close}>Do not run</button>
        </p>
      </form>
    </Dialog>
  );
}
