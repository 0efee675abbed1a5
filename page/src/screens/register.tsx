/** One registration as text, JSON or TOML: pasted, or begun with that of another model. */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { go, hrefOf } from "../kit/route";
import { ErrorNote, Waiting } from "../kit/parts";
import { draftOf, FIRST_DRAFT, spotOf, type Spot } from "../kit/registration";
import { encoded, inPath, post, Refused } from "../server/call";
import type { CatalogueRow } from "../server/shapes";
import { words } from "../words";

type Catalogue = readonly CatalogueRow[];
type Fields = Readonly<Record<string, unknown>>;

/** `from`: the type and the name of the model whose registration it begins with. */
export function Register({ catalogue, from }: { catalogue: Catalogue; from: readonly string[] }): JSX.Element {
  const say = words().registrations;
  const [type = "", ...name] = from;
  const path = name.length > 0 ? `/v1/model_registrations/${encoded(type)}/${inPath(name.join("/"))}` : null;
  const { value, error } = useAnswer<Fields>(path);
  const isWaiting = path !== null && value === null;
  return (
    <div class="stack">
      <p>
        <a href={hrefOf("registrations")}>{say.back}</a>
      </p>
      <h1>{say.register}</h1>
      <p class="dim">{say.registerHelp}</p>
      <ErrorNote error={error} />
      {isWaiting && error === null && <Waiting rows={6} />}
      {!isWaiting && <Form catalogue={catalogue} type={type} name={name.join("/")} draft={value ? draftOf(value) : FIRST_DRAFT} />}
    </div>
  );
}

type FormProperties = { catalogue: Catalogue; type: string; name: string; draft: string };

function Form({ catalogue, type, name, draft }: FormProperties): JSX.Element {
  const say = words().registrations;
  const types = [...new Set(catalogue.map((row) => row.type))];
  const [chosen, setChosen] = useState(types.includes(type) ? type : (types[0] ?? ""));
  const [text, setText] = useState(draft);
  const [error, setError] = useState<unknown>(null);
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    setError(null);
    try {
      await post<null>(`/v1/model_registrations/${encoded(chosen)}`, { model: text });
      go("registrations");
    } catch (caught) {
      setError(caught);
    }
  };
  return (
    <form class="stack" onSubmit={(event) => void submit(event)}>
      <div class="form-grid">
        <Choice title={say.type} value={chosen} choices={types} onChoice={setChosen} />
        <Choice
          title={say.begin}
          value={chosen === type ? name : ""}
          choices={["", ...catalogue.filter((row) => row.type === chosen).map((row) => row.name)]}
          onChoice={(other) => go("registrations", "new", chosen, ...(other ? [other] : []))}
        />
      </div>
      <Text text={text} error={error} onText={setText} />
      <div>
        <button class="primary">{say.register}</button>
      </div>
    </form>
  );
}

type ChoiceProperties = { title: string; value: string; choices: readonly string[]; onChoice: (value: string) => void };

function Choice({ title, value, choices, onChoice }: ChoiceProperties): JSX.Element {
  return (
    <label class="field">
      <span>{title}</span>
      <select value={value} onChange={(event) => onChoice(event.currentTarget.value)}>
        {choices.map((choice) => (
          <option key={choice} value={choice}>
            {choice || words().registrations.nothing}
          </option>
        ))}
      </select>
    </label>
  );
}

type TextProperties = { text: string; error: unknown; onText: (text: string) => void };

/** The server's sentence beneath, and what it is about selected. */
function Text({ text, error, onText }: TextProperties): JSX.Element {
  const say = words().registrations;
  const box = useRef<HTMLTextAreaElement>(null);
  const [spot, setSpot] = useState<Spot | null>(null);
  useEffect(() => {
    const where = error instanceof Refused ? spotOf(text, error) : null;
    setSpot(where);
    if (error === null) return;
    box.current?.focus();
    if (where) box.current?.setSelectionRange(where.start, where.end);
    // Of the text as it was sent: the next letter does not move it.
  }, [error]);
  return (
    <div class="stack tight">
      <label class="field">
        <span>{say.text}</span>
        <textarea
          ref={box}
          class="mono"
          rows={18}
          required
          spellcheck={false}
          aria-invalid={error !== null}
          aria-describedby="registration-error"
          value={text}
          onInput={(event) => onText(event.currentTarget.value)}
        />
      </label>
      <div id="registration-error" class="stack tight">
        {spot && <small>{say.line(spot.line)}</small>}
        <ErrorNote error={error} />
      </div>
    </div>
  );
}
