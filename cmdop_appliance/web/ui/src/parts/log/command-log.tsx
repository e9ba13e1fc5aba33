import type { ComponentChildren } from "preact";
import { address, Away } from "../../api/client";
import type { Id } from "../../api/types";
import { Problem } from "../problem";
import type { Following } from "./following";
import { LogView } from "./view";

/** The output of a command as it comes, with `useFollowing`. */
export function CommandLog({ id, label, following, isLive, children }: {
  id: Id;
  label: string;
  following: Following;
  /** It had not ended when the page first saw it. */
  isLive: boolean;
  children?: ComponentChildren;
}) {
  const { log, end, error } = following;
  const problem = error.value;
  return (
    <>
      {problem instanceof Away ? <p class="dim" role="status">{problem.message}</p> : <Problem error={problem} />}
      <LogView log={log} label={label} at={`/commands/${id}`} isLive={isLive && !end.value}>
        {children}
      </LogView>
    </>
  );
}

/** All bytes of one stream, as a link. */
export function Download({ id, stream, children }: { id: Id; stream: "stdout" | "stderr"; children: ComponentChildren }) {
  return <a class="button small" download href={address(`/commands/${id}/output`, { stream })}>{children}</a>;
}
