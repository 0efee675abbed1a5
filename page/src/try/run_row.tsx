/** The button that begins a request, the one that stops it, and how it went. */
import type { JSX } from "preact";
import { ErrorNote } from "../kit/parts";
import { words } from "../words";
import type { Run } from "./call";

export function RunRow({ run, label, canStop = false }: { run: Run; label: string; canStop?: boolean }): JSX.Element {
  const say = words().try;
  return (
    <div class="stack tight">
      <div class="row">
        <button class="primary" disabled={run.isBusy}>
          {label}
        </button>
        {canStop && run.isBusy && (
          <button type="button" onClick={run.stop}>
            {say.stop}
          </button>
        )}
        <small role="status">{run.isBusy ? say.busy : run.seconds === null ? "" : say.took(run.seconds)}</small>
      </div>
      <ErrorNote error={run.error} />
    </div>
  );
}

export const linesOf = (text: string): string[] => text.split("\n").map((line) => line.trim()).filter(Boolean);
