/** Models that people added to the catalogue: listed, launched, changed, forgotten. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { bytes } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Confirm, ErrorNote, Waiting, type Question } from "../kit/parts";
import { encoded, inPath, send } from "../server/call";
import { returns } from "../server/live";
import type { CatalogueRow } from "../server/shapes";
import { words } from "../words";
import { Register } from "./register";

/** In place of a type in the address. */
const NEW = "new";

export function Registrations({ rest }: { rest: readonly string[] }): JSX.Element {
  const say = words().registrations;
  const [first = "", ...others] = rest;
  // There is one more after a registration.
  const since = `${returns.value} ${first === NEW}`;
  const { value, error, again } = useAnswer<readonly CatalogueRow[]>("/v1/catalog", since);
  const rows = value?.filter((row) => !row.builtin && (first === "" || row.type === first)) ?? [];
  if (first === NEW && value !== null) return <Register key={rest.join("/")} catalogue={value} from={others} />;
  return (
    <div class="stack">
      <div class="row spread">
        <h1>{say.title}</h1>
        <a class="button primary" href={hrefOf("registrations", NEW)}>
          {say.register}
        </a>
      </div>
      <p class="dim">{say.help}</p>
      <ErrorNote error={error} />
      {value === null && error === null && <Waiting />}
      {value !== null && <Types catalogue={value} current={first} />}
      {value !== null && (rows.length === 0 ? <p>{say.none}</p> : <Table rows={rows} again={again} />)}
    </div>
  );
}

function Types({ catalogue, current }: { catalogue: readonly CatalogueRow[]; current: string }): JSX.Element | null {
  const types = [...new Set(catalogue.filter((row) => !row.builtin).map((row) => row.type))];
  if (types.length < 2 && current === "") return null;
  return (
    <nav class="tabs" aria-label={words().registrations.type}>
      {["", ...types].map((type) => (
        <a key={type} href={hrefOf("registrations", ...(type ? [type] : []))} aria-current={type === current ? "page" : undefined}>
          {type || words().launch.all}
        </a>
      ))}
    </nav>
  );
}

function Table({ rows, again }: { rows: readonly CatalogueRow[]; again: () => void }): JSX.Element {
  const say = words().registrations;
  const [question, setQuestion] = useState<Question | null>(null);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table>
        <thead>
          <tr>
            <th scope="col">{say.model}</th>
            <th scope="col">{say.type}</th>
            <th scope="col" class="number wide">{words().launch.weights}</th>
            <td />
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <Row key={`${row.type}/${row.name}`} row={row} onForget={() => setQuestion(forgetting(row, again))} />
          ))}
        </tbody>
      </table>
      {question && <Confirm question={question} onClose={() => setQuestion(null)} />}
    </div>
  );
}

function Row({ row, onForget }: { row: CatalogueRow; onForget: () => void }): JSX.Element {
  const say = words().registrations;
  return (
    <tr>
      <th scope="row" class="name">
        <a href={hrefOf("launch", row.type, row.name)}>{row.name}</a>
        {row.description && <div class="dim">{row.description}</div>}
        {row.needs && <div class="dim">{words().launch.needs(row.needs)}</div>}
      </th>
      <td>{row.type}</td>
      <td class="number wide">{row.weight_bytes ? bytes(row.weight_bytes) : "–"}</td>
      <td class="number actions">
        <a class="wide" href={hrefOf("launch", row.type, row.name)} aria-label={words().launch.launching(row.name)}>
          {words().launch.launch}
        </a>
        <a href={hrefOf("registrations", NEW, row.type, row.name)} aria-label={say.editLabel(row.name)}>
          {say.edit}
        </a>
        <button class="quiet" onClick={onForget} aria-label={say.forgetLabel(row.name)}>
          {say.forget}
        </button>
      </td>
    </tr>
  );
}

function forgetting(row: CatalogueRow, done: () => void): Question {
  const say = words().registrations;
  return {
    title: say.forgetTitle(row.name),
    text: say.forgetText,
    act: say.forget,
    run: async () => {
      await send("DELETE", `/v1/model_registrations/${encoded(row.type)}/${inPath(row.name)}`);
      done();
    },
  };
}
