/** The launch of one model: its options from the server's own schema, and beside them what the launch would take. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { bodyOf, fieldsOf, textOf, type Field, type Schema } from "../kit/form";
import { Fields, type Texts } from "../kit/fields";
import { go, hrefOf } from "../kit/route";
import { ErrorNote, Waiting } from "../kit/parts";
import { encoded, inPath, messageOf, post } from "../server/call";
import type { CatalogueRow, LaunchOptions } from "../server/shapes";
import { words } from "../words";
import { PlanPane } from "./plan";

/** Said by the page itself. */
const FIXED = ["model_name", "model_type", "options"];
/** What most people look at; all others are one click away. */
const FIRST = ["model_uid", "replica", "model_engine", "quantization", "n_gpu", "worker_ip", "node_labels"];

export function LaunchForm({ type, name }: { type: string; name: string }): JSX.Element {
  const path = `/v1/options/${encoded(type)}/${inPath(name)}`;
  const { value, error } = useAnswer<LaunchOptions>(path);
  return (
    <div class="stack">
      <p>
        <a href={hrefOf("launch", type)}>{words().launch.back}</a>
      </p>
      <h1 class="name">{words().launch.launching(name)}</h1>
      <ErrorNote error={error} />
      {error !== null && <Nearest type={type} message={messageOf(error)} />}
      {value !== null ? <Form options={value} /> : error === null && <Waiting />}
    </div>
  );
}

/** The models that the server names where there is none of the name that somebody typed. */
function Nearest({ type, message }: { type: string; message: string }): JSX.Element {
  const rows = useAnswer<readonly CatalogueRow[]>("/v1/catalog").value ?? [];
  const named = message.split(/[\s,;]+/).map((word) => word.replace(/[.']+$/, ""));
  return (
    <p class="row">
      {rows
        .filter((row) => row.type === type && named.includes(row.name))
        .map((row) => (
          <a key={row.name} href={hrefOf("launch", type, row.name)}>
            {row.name}
          </a>
        ))}
    </p>
  );
}

type Launched = { readonly model_uid: string };

/** Where the variants of a model are known, they are choices. */
function withChoices(fields: readonly Field[], options: LaunchOptions): Field[] {
  const sizes = [...new Set(options.variants.flatMap((variant) => variant.sizes))];
  const choices: Readonly<Record<string, readonly string[]>> = {
    model_engine: options.engines,
    ...(sizes.length > 0 ? { model_size_in_billions: sizes } : {}),
    quantization: [...new Set(options.variants.flatMap((variant) => variant.quantizations))],
    model_format: [...new Set(options.variants.map((variant) => variant.format))],
  };
  return fields.map((field) => {
    const some = Object.hasOwn(choices, field.name) ? choices[field.name] : undefined;
    return some === undefined ? field : { ...field, kind: "choice" as const, choices: some };
  });
}

/** Fields of every launch, and those of the model's family. */
export function launchFields(options: LaunchOptions, fixed: readonly string[]): { launch: Field[]; family: Field[] } {
  const launch = withChoices(fieldsOf(options.launch as Schema), options).filter((field) => !fixed.includes(field.name));
  return { launch, family: fieldsOf(options.family as Schema, options.defaults) };
}

function Form({ options }: { options: LaunchOptions }): JSX.Element {
  const say = words().launch;
  const [texts, setTexts] = useState<Texts>({});
  const [error, setError] = useState<unknown>(null);
  const { launch, family } = launchFields(options, FIXED);
  const fields = [...launch, ...family];
  const body = { model_name: options.name, model_type: options.type, ...bodyOf(fields, texts) };
  const onText = (name: string, text: string): void => setTexts((last) => ({ ...last, [name]: text }));
  const onRung = (changes: Readonly<Record<string, unknown>>): void => {
    const kinds = new Map(fields.map((field) => [field.name, field.kind]));
    const changed = Object.entries(changes).map(([key, value]) => [key, textOf(value, kinds.get(key) ?? "text")]);
    setTexts((last) => ({ ...last, ...Object.fromEntries(changed) }));
  };
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    setError(null);
    try {
      const launched = await post<Launched>("/v1/models?wait_ready=false", body);
      go("models", launched.model_uid, "replicas");
    } catch (caught) {
      setError(caught);
    }
  };
  return (
    <form class="split wide-left" onSubmit={(event) => void submit(event)}>
      <div class="stack">
        <AllFields type={options.type} launch={launch} family={family} texts={texts} onText={onText} />
      </div>
      <div class="stack sticky">
        <PlanPane body={body} onRung={onRung} />
        <ErrorNote error={error} />
        <button class="primary">{say.launch}</button>
      </div>
    </form>
  );
}

type AllProperties = { type: string; launch: readonly Field[]; family: readonly Field[]; texts: Texts; onText: MoreProperties["onText"] };

export function AllFields({ type, launch, family, texts, onText }: AllProperties): JSX.Element {
  const say = words().launch;
  return (
    <>
      <Fields fields={launch.filter((field) => FIRST.includes(field.name))} texts={texts} onText={onText} />
      <More title={say.more} fields={launch.filter((field) => !FIRST.includes(field.name))} texts={texts} onText={onText} />
      <More title={say.family(type)} fields={family} texts={texts} onText={onText} />
    </>
  );
}

type MoreProperties = { title: string; fields: readonly Field[]; texts: Texts; onText: (name: string, text: string) => void };

function More({ title, fields, texts, onText }: MoreProperties): JSX.Element | null {
  if (fields.length === 0) return null;
  return (
    <details>
      <summary>
        {title} <small>{words().launch.options(fields.length)}</small>
      </summary>
      <Fields fields={fields} texts={texts} onText={onText} />
    </details>
  );
}
