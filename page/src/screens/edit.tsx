/** The options of a launched model, and what changing them would do. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { declaredIn, edited, written, type Declaration } from "../kit/edit";
import { useAnswer } from "../kit/answer";
import { type Texts } from "../kit/fields";
import { textOf } from "../kit/form";
import { go } from "../kit/route";
import { ErrorNote, Note, Waiting } from "../kit/parts";
import { encoded, inPath, isAbort, post } from "../server/call";
import type { ChangeRow, Changes, LaunchOptions, LiveModel } from "../server/shapes";
import { words } from "../words";
import { AllFields, launchFields } from "./launch_form";
import { PlanPane } from "./plan";

/** What makes it this model. */
const FIXED = ["model_name", "model_type", "model_uid", "options", "asleep"];
const PAUSE_MS = 350;

const apply = (declaration: Declaration, dry_run: boolean, signal?: AbortSignal): Promise<Changes> =>
  post("/v1/models/apply", { models: [declaration], prune: false, dry_run }, signal);

export function Edit({ model }: { model: LiveModel }): JSX.Element {
  const declared = useAnswer<{ models: readonly Declaration[] }>("/v1/models/export", model.generation);
  const options = useAnswer<LaunchOptions>(`/v1/options/${encoded(model.type)}/${inPath(model.name)}`);
  const mine = declared.value?.models.find((each) => (each.model_uid ?? each.model_name) === model.uid);
  if (mine !== undefined && options.value !== null) {
    return <Form key={model.generation} model={model} declaration={{ ...mine, model_uid: model.uid }} options={options.value} />;
  }
  const error = declared.error ?? options.error;
  return error === null ? <Waiting /> : <ErrorNote error={error} />;
}

type FormProperties = { model: LiveModel; declaration: Declaration; options: LaunchOptions };

function Form({ model, declaration, options }: FormProperties): JSX.Element {
  const [texts, setTexts] = useState<Texts>({});
  const [error, setError] = useState<unknown>(null);
  const all = launchFields(options, FIXED);
  const launch = declaredIn(all.launch, declaration);
  const family = declaredIn(all.family, declaration);
  const fields = [...launch, ...family];
  const after = edited(declaration, fields, texts);
  const change = useChange(after);
  const onText = (name: string, text: string): void => setTexts((last) => ({ ...last, [name]: text }));
  const onRung = (changes: Readonly<Record<string, unknown>>): void => {
    const kinds = new Map(fields.map((field) => [field.name, field.kind]));
    const changed = Object.entries(changes).map(([key, value]) => [key, textOf(value, kinds.get(key) ?? "text")]);
    setTexts((last) => ({ ...last, ...Object.fromEntries(changed) }));
  };
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    setError(null);
    apply(after, false).then(() => go("models", model.uid, "replicas"), setError);
  };
  const isChanged = change.row !== null && change.row.change !== "same";
  return (
    <form class="split wide-left" onSubmit={submit}>
      <div class="stack">
        <AllFields type={options.type} launch={launch} family={family} texts={texts} onText={onText} />
      </div>
      <div class="stack sticky">
        <Difference row={change.row} error={change.error} />
        {change.row?.change === "update" && <PlanPane body={after} onRung={onRung} />}
        <ErrorNote error={error} />
        <button class="primary" disabled={!isChanged}>
          {words().edit.apply}
        </button>
        {isChanged && <small>{words().edit.help}</small>}
      </div>
    </form>
  );
}

type Asked = { readonly row: ChangeRow | null; readonly error: unknown };

/** What the server says that would change, asked again a moment after each change. */
function useChange(after: Declaration): Asked {
  const [state, setState] = useState<Asked>({ row: null, error: null });
  const text = JSON.stringify(after);
  useEffect(() => {
    const leaving = new AbortController();
    const timer = setTimeout(() => {
      apply(JSON.parse(text) as Declaration, true, leaving.signal).then(
        ({ changes }) => setState({ row: changes[0] ?? null, error: null }),
        (error: unknown) => isAbort(error) || setState({ row: null, error }),
      );
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      leaving.abort();
    };
  }, [text]);
  return state;
}

function Difference({ row, error }: Asked): JSX.Element {
  const say = words().edit;
  return (
    <section class="panel stack tight" aria-label={say.changes} aria-live="polite">
      <h2>{say.changes}</h2>
      <ErrorNote error={error} />
      {row === null && error === null && <Waiting rows={2} />}
      {row?.change === "same" && <p class="dim">{say.nothing}</p>}
      {row !== null && row.change !== "same" && (
        <>
          <Fields row={row} />
          <Note kind={row.change === "update" ? "warn" : "plain"}>{say.kind(row.change)}</Note>
          {row.change === "update" && Number(row.after?.canary) > 0 && <Note>{words().canary.edit(Number(row.after?.canary))}</Note>}
        </>
      )}
    </section>
  );
}

function Fields({ row }: { row: ChangeRow }): JSX.Element {
  const say = words().edit;
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">{say.field}</th>
          <th scope="col">{say.before}</th>
          <th scope="col">{say.after}</th>
        </tr>
      </thead>
      <tbody>
        {row.fields.map((name) => (
          <tr key={name}>
            <th scope="row" class="name">{name}</th>
            <td class="name">{written(row.before?.[name], say.usual)}</td>
            <td class="name">{written(row.after?.[name], say.usual)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
