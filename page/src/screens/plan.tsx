/** What a launch would take and whether it fits, while its options are being typed. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { bytes } from "../kit/format";
import { Bar, ErrorNote, Note, State, Waiting } from "../kit/parts";
import { isAbort, post } from "../server/call";
import type { FitBody, Plan, Rung } from "../server/shapes";
import { words } from "../words";

type Body = Readonly<Record<string, unknown>>;
type OnRung = (changes: Body) => void;
/** A pause in the typing. */
const PAUSE_MS = 350;

/** The server's plan for the body, asked again a moment after each change. */
function usePlan(body: Body): { fit: FitBody | null; error: unknown } {
  const [state, setState] = useState<{ fit: FitBody | null; error: unknown }>({ fit: null, error: null });
  const text = JSON.stringify(body);
  useEffect(() => {
    const leaving = new AbortController();
    const timer = setTimeout(() => {
      post<FitBody>("/v1/plan", JSON.parse(text) as Body, leaving.signal).then(
        (fit) => setState({ fit, error: null }),
        (error: unknown) => isAbort(error) || setState({ fit: null, error }),
      );
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      leaving.abort();
    };
  }, [text]);
  return state;
}

export function PlanPane({ body, onRung }: { body: Body; onRung: OnRung }): JSX.Element {
  const say = words().plan;
  const { fit, error } = usePlan(body);
  return (
    <section class="panel stack" aria-label={say.title} aria-live="polite">
      <div class="row spread">
        <h2>{say.title}</h2>
        {fit && <State kind={fit.fits ? "good" : "bad"}>{fit.fits ? say.fits : say.fitsNot}</State>}
      </div>
      <ErrorNote error={error} />
      {fit === null ? error === null && <Waiting rows={3} /> : <Fit fit={fit} onRung={onRung} />}
    </section>
  );
}

function Fit({ fit, onRung }: { fit: FitBody; onRung: OnRung }): JSX.Element {
  const say = words().plan;
  const needed = fit.card_bytes || fit.claim_bytes;
  return (
    <>
      {fit.room_bytes !== null && (
        <Bar
          parts={[needed / Math.max(needed, fit.room_bytes)]}
          label={say.of(bytes(needed), bytes(fit.room_bytes))}
          isFull={!fit.fits}
        />
      )}
      <dl class="facts">
        {fit.card_bytes > 0 && (
          <>
            <dt>{say.card}</dt>
            <dd>{bytes(fit.card_bytes)}</dd>
          </>
        )}
        <dt>{say.memory}</dt>
        <dd>{bytes(fit.claim_bytes)}</dd>
        {fit.room_bytes !== null && (
          <>
            <dt>{say.room}</dt>
            <dd>{bytes(fit.room_bytes)}</dd>
          </>
        )}
        {fit.nodes.length > 0 && (
          <>
            <dt>{say.where}</dt>
            <dd>{fit.nodes.join(", ")}</dd>
          </>
        )}
      </dl>
      {!fit.fits && <Note kind="warn">{fit.reason}</Note>}
      {fit.ladder && fit.ladder.length > 0 && <Ladder rungs={fit.ladder} onRung={onRung} />}
      {fit.plan && <Parts plan={fit.plan} />}
    </>
  );
}

function Ladder({ rungs, onRung }: { rungs: readonly Rung[]; onRung: OnRung }): JSX.Element {
  const say = words().plan;
  return (
    <div class="stack tight ladder">
      <h2>{say.smaller}</h2>
      {rungs.map((rung) => {
        const text = Object.entries(rung.changes).map(([name, value]) => `${name}=${String(value)}`).join(" ");
        return (
          <button key={text} type="button" onClick={() => onRung(rung.changes)}>
            {text} <small>{bytes(rung.card_bytes || rung.claim_bytes)}</small>
            {rung.fits && <State kind="good">{say.fits}</State>}
          </button>
        );
      })}
    </div>
  );
}

function Parts({ plan }: { plan: Plan }): JSX.Element {
  const say = words().plan;
  const rows = plan.components.map((part) => ({
    name: String(part.component ?? ""),
    how: [part.quantization, part.dtype].filter((word) => word && word !== "none").map(String)[0] ?? "",
    size: Number(part.bytes ?? 0),
  }));
  const all = [
    ...rows,
    { name: say.activation, how: "", size: plan.activation_bytes },
    { name: say.fixed, how: "", size: plan.fixed_bytes + plan.spare_bytes },
  ].filter((row) => row.size > 0);
  return (
    <table>
      <tbody>
        {all.map((row) => (
          <tr key={row.name}>
            <th scope="row" class="name">{row.name}</th>
            <td class="dim name">{row.how}</td>
            <td class="number">{bytes(row.size)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
