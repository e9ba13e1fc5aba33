// What stands around every page from the first paint on; parts/around.tsx has what comes then.

import { signal } from "@preact/signals";
import { type ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { isSignedIn, said } from "./api/client";
import { lacking, type Over, PAGES, type Page } from "./pages";
import { epoch } from "./state/live";
import { me, recognise } from "./state/me";
import { listenToLinks, match, path } from "./state/routing";

const SIGN_IN = "/sign-in";

const pageOf = (at: string) =>
  PAGES.map((page) => ({ page, params: match(page.path, at) })).find(({ params }) => params);

/** What is open over the page. */
const over = signal<Over>(null);
const trouble = signal<unknown>(null);

/** Whether this browser has shown a cookie, which pages cannot read: without one nobody is asked. */
const hasCookie = document.querySelector<HTMLMetaElement>("meta[name=cookie]")?.content === "yes";

listenToLinks((to) => to === SIGN_IN || pageOf(to) !== undefined);

async function begin(): Promise<void> {
  trouble.value = null;
  try {
    if (hasCookie) await recognise();
    else isSignedIn.value = false;
  } catch (error) {
    trouble.value = error;
  }
}
void begin();

export function App() {
  if (trouble.value) return <Unreached />;
  if (isSignedIn.value === null) return null;
  if (!isSignedIn.value || path.value === SIGN_IN) return <main class="alone"><Lazy page={SIGN_IN_PAGE} params={{}} /></main>;
  const found = pageOf(path.value);
  const lacks = found ? lacking(found.page) : [];
  return (
    <>
      <a class="skip" href="#content">Skip to the page</a>
      <Navigation current={found?.page} />
      <div class="beside">
        <Lazy page={AROUND} over={over} />
        <main id="content" tabIndex={-1}>
          {found
            ? <Lazy key={path.value} page={lacks.length ? { ...LACKING, title: found.page.title } : found.page} params={found.params!} lacks={lacks} />
            : <h1>There is no page here</h1>}
        </main>
      </div>
    </>
  );
}

type Shown = Pick<Page, "title"> & { load: () => Promise<{ default: ComponentType<any> }> };

const SIGN_IN_PAGE: Shown = { title: "Sign in", load: () => import("./pages/sign-in") };
const LACKING: Shown = { title: "", load: () => import("./parts/lacking") };
const AROUND: Shown = { title: "", load: () => import("./parts/around") };

/** The rest of the look, which the first paint does without. */
let styled: Promise<unknown> | null = null;
const style = () =>
  (styled ??= new Promise((resolve, reject) => {
    const before = document.querySelector("#pages-style")!;
    const link = before.cloneNode() as HTMLLinkElement;
    link.rel = "stylesheet";
    link.onload = resolve;
    link.onerror = () => {
      styled = null;
      reject();
    };
    before.replaceWith(link);
  }));

/** A part of a chunk of its own; one that did not come is asked for again when the hub is back. */
function Lazy({ page, ...props }: { page: Shown; [name: string]: unknown }) {
  const [Part, setPart] = useState<ComponentType<any> | null>(null);
  const [isFailed, setFailed] = useState(false);
  const load = () => {
    Promise.all([page.load(), style()]).then(([module]) => setPart(() => module.default), () => setFailed(true));
  };
  useEffect(() => {
    if (page.title) document.title = `${page.title} · cmdop`;
    load();
  }, [page.load, !Part && epoch.value]);
  if (Part) return <Part title={page.title} {...props} />;
  if (!isFailed || !page.title) return null;
  return (
    <p class="problem" role="alert">
      This part of the page did not load. <button onClick={load}>Try again</button>
    </p>
  );
}

function Navigation({ current }: { current: Page | undefined }) {
  return (
    <nav class="side" aria-label="Pages">
      <a class="brand" href="/">cmdop</a>
      <button type="button" class="small" onClick={() => (over.value = "palette")}>
        Find <kbd>Ctrl K</kbd>
      </button>
      <ul>
        {PAGES.filter((page) => page.key).map((page) => (
          <li key={page.path} class={lacking(page).length ? "dim" : ""}>
            <a href={page.path} aria-current={isIn(page, current) ? "page" : undefined}>{page.title}</a>
          </li>
        ))}
      </ul>
      <ul class="foot">
        <li><a href="/help" target="_blank">Help</a></li>
        <li><a href="/docs" target="_blank">API</a></li>
        <li class="dim who" title={me.value?.name}>{me.value?.email}</li>
      </ul>
    </nav>
  );
}

const isIn = (page: Page, current: Page | undefined) =>
  current && (current === page || (page.path !== "/" ? current.path.startsWith(`${page.path}/`) : current.path === "/machines/:id"));

function Unreached() {
  return (
    <main class="alone">
      <h1>cmdop</h1>
      <div class="problem" role="alert">
        <p>{said(trouble.value)}</p>
        <p class="dim">Is it running? On its machine: <code>cmdop serve</code></p>
        <button onClick={begin}>Try again</button>
      </div>
    </main>
  );
}
