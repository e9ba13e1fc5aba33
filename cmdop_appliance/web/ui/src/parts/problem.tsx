import { ApiError, said } from "../api/client";
import { CopyButton } from "./copy";

/** What failed, why, and what to do next; it stays until it is put right. */
export function Problem({ error, retry }: { error: unknown; retry?: (() => void) | undefined }) {
  if (error == null) return null;
  const refusal = error instanceof ApiError ? error : null;
  return (
    <div class="problem" role="alert">
      <p>{said(error)}</p>
      {refusal?.hint && <p class="dim">{refusal.hint}</p>}
      <p class="row">
        {retry && <button type="button" class="small" onClick={retry}>Try again</button>}
        {refusal?.requestId && <CopyButton text={refusal.requestId} label="Copy request id" />}
      </p>
    </div>
  );
}
