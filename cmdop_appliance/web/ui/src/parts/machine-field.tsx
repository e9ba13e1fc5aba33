import type { Machine } from "../api/types";
import { Field } from "./field";

/** On which of these machines. */
export function MachineField({ machines, chosen, choose }: {
  machines: readonly Machine[];
  chosen: Machine | undefined;
  choose: (id: string) => void;
}) {
  return (
    <Field label="Machine">
      <select value={chosen?.id} onChange={(event) => choose(event.currentTarget.value)}>
        {machines.map((each) => <option key={each.id} value={each.id}>{each.name}</option>)}
      </select>
    </Field>
  );
}
