// How a machine is added: a line to paste there, and the wait for it to come.

import { useEffect, useState } from "preact/hooks";
import { CopyLine } from "../../parts/copy";
import { Dialog } from "../../parts/dialog";
import { Field, reasonOf } from "../../parts/field";
import { counted } from "../../parts/format";
import { useLoad } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { tagsIn } from "../../parts/tags";
import { Ago, now } from "../../parts/time";
import { remember, remembered } from "../../state/theme";
import { byHand, forgetUsed, isGood, isLocal, joined, loadPrograms, offer, offerToken, oneLine, TTLS, type Wish } from "./joining";
import { Arrivals } from "./arrivals";

const KEY = "cmdop.join";
const WAYS = ["One line", "By hand"] as const;

export function AddDialog({ close }: { close: () => void }) {
  useEffect(() => forgetUsed, []);
  return <Dialog title="Add a machine" close={close} wide><Adding /></Dialog>;
}

export function Adding({ onJoin }: { onJoin?: () => void }) {
  const [problem, setProblem] = useState<unknown>(null);
  const ask = (wish?: Wish) => offerToken(wish).then(() => setProblem(null), setProblem);
  useEffect(() => void ask(), []);
  useEffect(() => {
    if (joined.value.length) onJoin?.();
  }, [joined.value.length]);
  const token = offer.value;
  const isUsable = isGood(token, joined.value.length, now.value);
  return (
    <>
      <Problem error={problem} retry={token ? undefined : () => void ask()} />
      {token && isUsable && <Ways token={token.token} />}
      {token && isUsable && (
        <p class="dim">
          Good for {counted(token.max_uses - joined.value.length, "machine")}, ends <Ago at={token.expires_at} />
          {token.tags.length > 0 && <>; tagged {token.tags.join(", ")}</>}.
          Anybody who has it can join: treat it as a password.
        </p>
      )}
      {token && <Arrivals isWaiting={isUsable} />}
      {token && !isUsable && (
        <p>
          {joined.value.length >= token.max_uses ? "This line is used up." : "This line is too old."}{" "}
          <button
            type="button"
            onClick={() => {
              forgetUsed();
              void ask();
            }}
          >
            Make a new one
          </button>
        </p>
      )}
      {token && <Wishes problem={problem} make={ask} />}
    </>
  );
}

/** The lines to paste, by the way that this browser took last. */
function Ways({ token }: { token: string }) {
  const { data: offered, error } = useLoad(() => loadPrograms(), []);
  const [way, setWay] = useState(remembered(KEY) === WAYS[1] ? WAYS[1] : WAYS[0]);
  const [platform, setPlatform] = useState("");
  if (error) return <Problem error={error} />;
  if (!offered) return null;
  const { files: programs, key_pin: pin, public_url: known } = offered;
  const choose = (to: (typeof WAYS)[number]) => {
    setWay(to);
    remember(KEY, to);
  };
  const isHere = isLocal(location.hostname);
  const hub = isHere && known ? known : location.origin;
  const program = programs.find((each) => each.platform === platform) ?? programs[0];
  const lines = way === "One line" && program ? [oneLine(hub, token, pin)] : byHand(hub, token, program, pin);
  return (
    <>
      {program
        ? (
          <div class="row" role="group" aria-label="Way to join">
            {WAYS.map((each) => (
              <button key={each} type="button" class="small" aria-pressed={each === way} onClick={() => choose(each)}>{each}</button>
            ))}
            {way === "By hand" && programs.length > 1 && (
              <select class="push" aria-label="System" value={program.platform} onChange={(event) => setPlatform(event.currentTarget.value)}>
                {programs.map((each) => <option key={each.name} value={each.platform}>{each.platform}</option>)}
              </select>
            )}
          </div>
        )
        : <p class="dim">This hub has no program to hand out (<code>scripts/build</code> makes one), so <code>cmdop</code> must be on the machine already.</p>}
      <p>Paste {lines.length > 1 ? "these lines" : "this line"} into a shell on the machine:</p>
      {lines.map((line, index) => <CopyLine key={index} text={line} label={lines.length > 1 ? `Line ${index + 1}` : "Line to paste"} />)}
      {isHere && !known && (
        <p class="wait">
          <span aria-hidden="true">▲</span> {location.host} is this machine alone: for a machine elsewhere open this page by the name or address that it knows.
        </p>
      )}
    </>
  );
}

/** For more than one machine, or for longer. */
function Wishes({ problem, make }: { problem: unknown; make: (wish: Wish) => Promise<void> }) {
  const [uses, setUses] = useState("1");
  const [ttl, setTtl] = useState(String(TTLS[0]![0]));
  const [tags, setTags] = useState("");
  return (
    <details>
      <summary>More than one machine, tags, a longer time</summary>
      <form
        class="wishes"
        onSubmit={(event) => {
          event.preventDefault();
          void make({ max_uses: Number(uses), ttl: Number(ttl), tags: tagsIn(tags) });
        }}
      >
        <Field label="How many machines" error={reasonOf(problem, "max_uses")}>
          <input type="number" min="1" max="100000" required value={uses} onInput={(event) => setUses(event.currentTarget.value)} />
        </Field>
        <Field label="Good for">
          <select value={ttl} onChange={(event) => setTtl(event.currentTarget.value)}>
            {TTLS.map(([ms, text]) => <option key={ms} value={ms}>{text}</option>)}
          </select>
        </Field>
        <Field label="Their tags" hint="Such as: prod, web" error={reasonOf(problem, "tags")}>
          <input type="text" value={tags} autocomplete="off" onInput={(event) => setTags(event.currentTarget.value)} />
        </Field>
        <button>Make a new line</button>
      </form>
    </details>
  );
}
