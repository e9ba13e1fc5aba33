import { useRef, useState } from "preact/hooks";
import { list } from "../../api/client";
import type { CommandRecord } from "../../api/types";
import { me } from "../../state/me";

const ASKED = 100;

/** What this key ran lately, the newest first, each once. */
export function useHistory(): { commands: readonly string[]; load: () => void } {
  const [commands, setCommands] = useState<readonly string[]>([]);
  const isAsked = useRef(false);
  const load = () => {
    if (isAsked.current) return;
    isAsked.current = true;
    list<CommandRecord>("/commands", { limit: ASKED }).then(
      ({ data }) => setCommands([...new Set(data.filter((each) => each.user_email === me.value?.email).map((each) => each.command))]),
      () => (isAsked.current = false),
    );
  };
  return { commands, load };
}
