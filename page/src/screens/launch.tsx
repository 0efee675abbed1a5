/** What can be launched, and the launch of one of it. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { bytes } from "../kit/format";
import { hrefOf } from "../kit/route";
import { ErrorNote, State, Waiting } from "../kit/parts";
import { models } from "../server/live";
import type { CatalogueRow } from "../server/shapes";
import { words } from "../words";
import { LaunchForm } from "./launch_form";

export function Launch({ rest }: { rest: readonly string[] }): JSX.Element {
  const [type, ...name] = rest;
  return type !== undefined && name.length > 0 ? (
    <LaunchForm key={rest.join("/")} type={type} name={name.join("/")} />
  ) : (
    <Catalogue type={type ?? ""} />
  );
}

/** Those of a type, of whose name, languages or description each word that was typed is a part. */
export function chosen(rows: readonly CatalogueRow[], type: string, typed: string): CatalogueRow[] {
  const parts = typed.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    const text = `${row.name} ${row.type} ${row.description} ${row.languages.join(" ")}`.toLowerCase();
    return (type === "" || row.type === type) && parts.every((part) => text.includes(part));
  });
}

function Catalogue({ type }: { type: string }): JSX.Element {
  const say = words().launch;
  const [typed, setTyped] = useState("");
  const { value, error } = useAnswer<readonly CatalogueRow[]>("/v1/catalog");
  const types = [...new Set((value ?? []).map((row) => row.type))];
  const rows = chosen(value ?? [], type, typed);
  return (
    <div class="stack">
      <h1>{say.title}</h1>
      <input
        class="narrow"
        type="search"
        aria-label={say.search}
        placeholder={say.search}
        value={typed}
        autofocus
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      <nav class="tabs" aria-label={say.type}>
        {["", ...types].map((each) => (
          <a key={each} href={hrefOf("launch", ...(each ? [each] : []))} aria-current={each === type ? "page" : undefined}>
            {each || say.all}
          </a>
        ))}
      </nav>
      <ErrorNote error={error} />
      {value === null && error === null && <Waiting />}
      {value !== null && (rows.length > 0 ? <Rows rows={rows} /> : <p class="dim">{say.none}</p>)}
    </div>
  );
}

function Rows({ rows }: { rows: readonly CatalogueRow[] }): JSX.Element {
  const say = words().launch;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table class="catalogue">
        <thead>
          <tr>
            <th scope="col">{say.model}</th>
            <th scope="col">{say.type}</th>
            <th scope="col" class="number">{say.weights}</th>
            <th scope="col" class="number wide">{say.tokens}</th>
            <th scope="col" class="wide">{say.licence}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <Row key={`${row.type}/${row.name}`} row={row} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ row }: { row: CatalogueRow }): JSX.Element {
  const running = models.value.filter((model) => model.name === row.name && model.type === row.type).length;
  return (
    <tr>
      <th scope="row" class="name">
        <div class="row">
          <a href={hrefOf("launch", row.type, row.name)}>{row.name}</a>
          {running > 0 && <State kind="good">{words().launch.runs}</State>}
        </div>
        {row.description && <div class="dim">{row.description}</div>}
        {row.needs && <div class="dim">{words().launch.needs(row.needs)}</div>}
      </th>
      <td>{row.type}</td>
      <td class="number">{row.weight_bytes ? bytes(row.weight_bytes) : "–"}</td>
      <td class="number wide">{row.max_tokens ?? "–"}</td>
      <td class="wide">{row.licence ?? "–"}</td>
    </tr>
  );
}
