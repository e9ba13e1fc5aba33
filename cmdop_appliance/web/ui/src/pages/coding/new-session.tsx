import { useEffect, useState } from "preact/hooks";
import { call } from "../../api/client";
import type { Terminal } from "../../api/types";
import { Dialog } from "../../parts/dialog";
import { Field } from "../../parts/field";
import { useOnce } from "../../parts/once";
import { MachineField } from "../../parts/machine-field";
import { Problem } from "../../parts/problem";
import { byName } from "../../state/machines";
import { go } from "../../state/routing";
import { remember, remembered } from "../../state/theme";

const AGENTS = ["claude", "codex", "cursor", "gemini", "opencode"];
const AGENT_KEY = "cmdop.coding.agent";
const CHECK_MS = 400;

type Spawned = { success: true; sessionId: string } | { success: false; message: string };

/** Machine, directory, agent: then it starts, or the machine says why not. */
export function NewSession({ machine, known, close }: { machine: string; known: readonly Terminal[]; close: () => void }) {
  const online = byName.value.filter((each) => each.status === "online");
  const [chosen, setChosen] = useState(machine);
  const [directory, setDirectory] = useState("");
  const [agent, setAgent] = useState(remembered(AGENT_KEY) ?? AGENTS[0]!);
  const [model, setModel] = useState("");
  const [worktree, setWorktree] = useState("");
  const [isYolo, setYolo] = useState(false);
  const { isBusy, error, act } = useOnce();
  const target = online.find((each) => each.id === chosen) ?? online[0];
  const isThere = useExists(target?.id, directory);
  const recent = [...new Set(known.filter((each) => each.machine_id === target?.id).map((each) => each.directory ?? ""))].filter(Boolean);
  const start = () =>
    act(async (key) => {
      const body = {
        directory,
        agent,
        yolo: isYolo,
        ...(model && { model }),
        ...(worktree && { sessionType: "worktree", worktreeName: worktree }),
      };
      const answer = (await call("POST", `/api/machines/${target!.id}/spawn`, { body, key })) as unknown as Spawned;
      if (!answer.success) throw new Error(answer.message);
      remember(AGENT_KEY, agent);
      go(`/terminals/${answer.sessionId}`);
    });
  return (
    <Dialog title="New coding session" close={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void start();
        }}
      >
        <Problem error={error} />
        <MachineField machines={online} chosen={target} choose={setChosen} />
        <Field
          label="Directory"
          hint={isThere === false ? "It is not there yet: it will be made." : isThere ? "It is there." : "Absolute, or ~/… in the home of the agent's user."}
        >
          <input list="recent-directories" value={directory} onInput={(event) => setDirectory(event.currentTarget.value)} placeholder="~/src/project" required />
          <datalist id="recent-directories">{recent.map((each) => <option key={each} value={each} />)}</datalist>
        </Field>
        <Field label="Agent" hint="It must be installed on the machine, and signed in there.">
          <input list="agents" value={agent} onInput={(event) => setAgent(event.currentTarget.value)} required />
          <datalist id="agents">{AGENTS.map((each) => <option key={each} value={each} />)}</datalist>
        </Field>
        <Field label="Model">
          <input value={model} onInput={(event) => setModel(event.currentTarget.value)} placeholder="the agent's own choice" />
        </Field>
        <Field label="Worktree" hint="In a git repository: a name gives it a worktree and a branch of its own.">
          <input value={worktree} onInput={(event) => setWorktree(event.currentTarget.value)} placeholder="none" />
        </Field>
        <label class={`row field ${isYolo ? "wrong" : ""}`}>
          <input type="checkbox" checked={isYolo} onChange={(event) => setYolo(event.currentTarget.checked)} />
          <b>Act without asking.</b> It may do whatever its user may; this is recorded in the audit log.
        </label>
        <button class={isYolo ? "danger" : "main"} disabled={isBusy || !target}>{isBusy ? "Starting…" : isYolo ? "Start without asking" : "Start"}</button>
      </form>
    </Dialog>
  );
}

/** Whether a directory is there on a machine; null: not known. */
function useExists(machineId: string | undefined, path: string): boolean | null {
  const [found, setFound] = useState<boolean | null>(null);
  useEffect(() => {
    setFound(null);
    if (!machineId || !path) return;
    const timer = setTimeout(async () => {
      try {
        const answer = (await call("POST", `/api/machines/${machineId}/paths/exists`, { body: { paths: [path] } })) as unknown as { exists: Record<string, boolean> };
        setFound(answer.exists[path] ?? null);
      } catch {
        // only a hint: starting says what is wrong
      }
    }, CHECK_MS);
    return () => clearTimeout(timer);
  }, [machineId, path]);
  return found;
}
