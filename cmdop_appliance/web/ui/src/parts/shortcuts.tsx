import { PAGES } from "../pages";
import { Dialog } from "./dialog";

const KEYS: [string, string][] = [
  ["Ctrl K", "Find machines, pages, actions"],
  ["/", "Filter this page"],
  ["?", "These keys"],
  ["Esc", "Close"],
];

export function Shortcuts({ close }: { close: () => void }) {
  const all = [...KEYS, ...PAGES.filter((page) => page.key).map((page): [string, string] => [`g ${page.key}`, page.title])];
  return (
    <Dialog title="Keys" close={close}>
      <dl class="keys">
        {all.map(([keys, what]) => (
          <div key={keys}>
            <dt>{keys.split(" ").map((each) => <kbd key={each}>{each}</kbd>)}</dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
