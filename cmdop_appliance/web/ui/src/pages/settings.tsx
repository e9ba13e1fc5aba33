import { useState } from "preact/hooks";
import { get, remove } from "../api/client";
import type { SignIn } from "../api/types";
import { More, useListing } from "../parts/listing";
import { useLoad } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Table } from "../parts/table";
import { Ago } from "../parts/time";
import { toast } from "../parts/toast";
import { me, signOut } from "../state/me";
import { theme, type Theme } from "../state/theme";

const THEMES: [Theme, string][] = [["system", "As the system"], ["light", "Light"], ["dark", "Dark"]];

/** This browser, and all that are signed in. */
export default function Settings() {
  const [failed, setFailed] = useState<unknown>(null);
  const found = useListing<SignIn>("/sign-ins");
  const hub = useLoad((signal) => get<{ hub_version: string }>("/auth/me", {}, signal), []);
  const end = async (signIn: SignIn) => {
    try {
      if (signIn.current) return await signOut();
      await remove(`/sign-ins/${signIn.id}`);
      toast("That browser is signed out");
      found.reload();
    } catch (problem) {
      setFailed(problem);
    }
  };
  return (
    <>
      <h1>Settings</h1>
      <section class="card group">
        <h2>This browser</h2>
        <fieldset class="row">
          <legend>Colours</legend>
          {THEMES.map(([value, name]) => (
            <label key={value} class="row">
              <input type="radio" name="theme" checked={theme.value === value} onChange={() => (theme.value = value)} /> {name}
            </label>
          ))}
        </fieldset>
        <p>
          It acts as the key <b>{me.value?.name}</b> ({me.value?.email}), which may: {me.value?.permissions.join(", ")}.
        </p>
        <button onClick={() => signOut().catch(setFailed)}>Sign out</button>
      </section>
      <Problem error={failed ?? found.error} retry={found.reload} />
      <h2>Browsers that are signed in</h2>
      <Table
        label="Browsers that are signed in"
        rows={found.rows}
        id={(each) => each.id}
        columns={[
          { name: "Browser", show: (each) => <>{browserOf(each.user_agent)} {each.current && <span class="tag">this one</span>}</> },
          { name: "As", show: (each) => each.key_name },
          { name: "From", show: (each) => each.ip },
          { name: "Last seen", show: (each) => <Ago at={each.last_seen_at} /> },
          { name: "Until", show: (each) => <Ago at={each.expires_at} /> },
          { name: "", show: (each) => <button class="small" onClick={() => end(each)}>Sign out</button> },
        ]}
      />
      <More of={found} />
      <h2>About</h2>
      <p>
        cmdop {hub.data?.hub_version}. <a href="/help" target="_blank">Help</a> · <a href="/docs" target="_blank">API</a> ·{" "}
        <a href="/assets/licenses.txt" target="_blank">Licences of what this page is made of</a>
      </p>
      <p class="dim">The hub's own settings stand in its <code>cmdop.toml</code>; each machine's in its <code>agent.toml</code>.</p>
    </>
  );
}

/** `Firefox on Linux`, as far as a browser says so. */
function browserOf(agent: string): string {
  const name = /(Firefox|Edg|OPR|Chrome|Safari)\//.exec(agent)?.[1];
  const system = /(Windows|Android|iPhone|iPad|Mac OS|Linux)/.exec(agent)?.[1];
  const known: Record<string, string> = { Edg: "Edge", OPR: "Opera" };
  return name ? `${known[name] ?? name}${system ? ` on ${system}` : ""}` : agent.slice(0, 40) || "unknown";
}
