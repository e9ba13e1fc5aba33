import { useEffect, useState } from "preact/hooks";
import { ApiError, isSignedIn } from "../api/client";
import { CopyLine } from "../parts/copy";
import { Field } from "../parts/field";
import { Problem } from "../parts/problem";
import { me, signIn } from "../state/me";
import { go, hash, path } from "../state/routing";

/** The hub's refusal of a key, for somebody who has pasted one: its hint is for programs. */
function told(problem: unknown): unknown {
  if (!(problem instanceof ApiError) || problem.status !== 401) return problem;
  const hint = "Is it whole? The file admin.key in the hub's data directory has one.";
  return new ApiError(problem.status, problem.code, problem.message, {}, hint, problem.requestId);
}

/** By the one-time link in the address, or by an API key. */
export default function SignIn() {
  const [key, setKey] = useState("");
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [link, setLink] = useState(() => (path.value === "/sign-in" ? hash.value : ""));

  const enter = async (credential: { link: string } | { key: string }) => {
    setBusy(true);
    setError(null);
    try {
      await signIn(credential);
      if (path.value === "/sign-in") go("/", "replace");
    } catch (problem) {
      setError("key" in credential ? told(problem) : problem);
    }
    setBusy(false);
  };

  useEffect(() => {
    if (isSignedIn.value && !link) return go("/", "replace");
    if (!link) return;
    go("/sign-in", "replace"); // it is good once, and need not stay in the history
    if (!isSignedIn.value) void enter({ link });
  }, []);

  if (isSignedIn.value) {
    return (
      <section class="card">
        <h1>You are signed in</h1>
        <p>This browser acts as <b>{me.value?.email}</b>. The link that you followed would sign it in anew: only do so if you made it.</p>
        <Problem error={error} />
        <p class="row">
          <button class="main" onClick={() => go("/", "replace")}>Stay as {me.value?.email}</button>
          <button disabled={isBusy || !link} onClick={() => { setLink(""); void enter({ link }); }}>Sign in by the link</button>
        </p>
      </section>
    );
  }

  return (
    <section class="card">
      <h1>Sign in</h1>
      <Problem error={error} />
      <p>On the hub's machine, this prints a link that signs a browser in:</p>
      <CopyLine label="Command" text="cmdop dashboard" />
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void enter({ key: key.trim() });
        }}
      >
        <Field label="Or an API key" hint="The first start wrote one to admin.key in the hub's data directory.">
          <input
            type="password"
            autocomplete="current-password"
            placeholder="cmdop_apikey_…"
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
            required
          />
        </Field>
        <button class="main" disabled={isBusy}>{isBusy ? "Signing in…" : "Sign in"}</button>
      </form>
    </section>
  );
}
