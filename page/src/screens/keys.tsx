/** The keys that callers need: made, listed, revoked. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { day } from "../kit/format";
import { Code, Confirm, ErrorNote, Note, Waiting, type Question } from "../kit/parts";
import { encoded, post, Refused, send } from "../server/call";
import { models } from "../server/live";
import type { CreatedKey, KeyRow } from "../server/shapes";
import { words } from "../words";

const SCOPES = ["list", "infer", "launch", "admin"] as const;

export function Keys(): JSX.Element {
  const say = words().keys;
  const { value, error, again } = useAnswer<readonly KeyRow[]>("/v1/keys");
  const [made, setMade] = useState<CreatedKey | null>(null);
  if (error instanceof Refused && error.status === 403) return <Forbidden message={error.message} />;
  const onMade = (key: CreatedKey): void => {
    setMade(key);
    again();
  };
  return (
    <div class="stack">
      <h1>{say.title}</h1>
      <ErrorNote error={error} />
      {made && (
        <Note kind="good">
          <p>{say.keep}</p>
          <Code text={made.key} />
        </Note>
      )}
      {value === null ? error === null && <Waiting /> : <Table rows={value} again={again} />}
      <Make onMade={onMade} />
    </div>
  );
}

function Forbidden({ message }: { message: string }): JSX.Element {
  return (
    <div class="stack">
      <h1>{words().keys.title}</h1>
      <Note kind="warn">{message}</Note>
    </div>
  );
}

function Table({ rows, again }: { rows: readonly KeyRow[]; again: () => void }): JSX.Element {
  const say = words().keys;
  const [question, setQuestion] = useState<Question | null>(null);
  if (rows.length === 0) return <p class="dim">{say.none}</p>;
  const revoking = (row: KeyRow): Question => ({
    title: say.revokeTitle(row.name),
    text: say.revokeText,
    act: say.revoke,
    run: async () => {
      await send("DELETE", `/v1/keys/${encoded(row.id)}`);
      again();
    },
  });
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{say.name}</th>
            <th scope="col">{say.scopes}</th>
            <th scope="col" class="wide">{say.models}</th>
            <th scope="col" class="wide">{say.created}</th>
            <td />
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.id}>
              <th scope="row" class="name">{row.name}</th>
              <td>{row.scopes.join(" ")}</td>
              <td class="wide name">{row.models === null ? say.all : row.models.join(" ")}</td>
              <td class="wide">{day(1000 * row.created)}</td>
              <td class="number">
                <button class="quiet" onClick={() => setQuestion(revoking(row))}>{say.revoke}</button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {question && <Confirm question={question} onClose={() => setQuestion(null)} />}
    </div>
  );
}

function Make({ onMade }: { onMade: (key: CreatedKey) => void }): JSX.Element {
  const say = words().keys;
  const [error, setError] = useState<unknown>(null);
  const submit = async (event: SubmitEvent & { currentTarget: HTMLFormElement }): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget;
    const data = new FormData(form);
    const chosen = data.getAll("models").map(String);
    const body = { name: String(data.get("name")), scopes: data.getAll("scopes"), models: chosen.length ? chosen : null };
    try {
      onMade(await post<CreatedKey>("/v1/keys", body));
      form.reset();
      setError(null);
    } catch (caught) {
      setError(caught);
    }
  };
  return (
    <form class="panel stack" onSubmit={(event) => void submit(event)}>
      <h2>{say.make}</h2>
      <label class="field narrow">
        <span>{say.name}</span>
        <input name="name" required maxLength={100} autocomplete="off" />
      </label>
      <Checks name="scopes" title={say.scopes} values={SCOPES} checked={["list", "infer"]} />
      {models.value.length > 0 && (
        <Checks name="models" title={say.onlyFor} values={models.value.map((model) => model.uid)} checked={[]} />
      )}
      <ErrorNote error={error} />
      <div>
        <button class="primary">{say.make}</button>
      </div>
    </form>
  );
}

type ChecksProperties = { name: string; title: string; values: readonly string[]; checked: readonly string[] };

function Checks({ name, title, values, checked }: ChecksProperties): JSX.Element {
  return (
    <fieldset class="field">
      <span>{title}</span>
      <div class="row">
        {values.map((value) => (
          <label key={value} class="check">
            <input type="checkbox" name={name} value={value} defaultChecked={checked.includes(value)} />
            {value}
          </label>
        ))}
      </div>
    </fieldset>
  );
}
