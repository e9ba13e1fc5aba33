import { me } from "../state/me";
import { Empty } from "./empty";

/** In the place of a page of which the hub would refuse everything: nothing is asked for. */
export default function Lacking({ title, lacks }: { title: string; lacks: string[] }) {
  return (
    <>
      <h1>{title}</h1>
      <Empty title="This key may not see it">
        <p>
          This browser acts as the key “{me.value?.name}”, which lacks {lacks.map((scope, index) => <>{index > 0 && " and "}<code>{scope}</code></>)}.
        </p>
        <p>Who may make keys can make one that has it; sign in by that one under <a href="/settings">Settings</a>.</p>
      </Empty>
    </>
  );
}
