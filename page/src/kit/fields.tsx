/** The fields of a form that was made from a schema. */
import type { JSX } from "preact";
import { words } from "../words";
import type { Field } from "./form";

export type Texts = Readonly<Record<string, string>>;
type Properties = { fields: readonly Field[]; texts: Texts; onText: (name: string, text: string) => void };

export function Fields({ fields, texts, onText }: Properties): JSX.Element {
  return (
    <div class="form-grid">
      {fields.map((field) => (
        <Single key={field.name} field={field} text={texts[field.name] ?? field.preset} onText={onText} />
      ))}
    </div>
  );
}

type SingleProperties = { field: Field; text: string; onText: Properties["onText"] };

function Single({ field, text, onText }: SingleProperties): JSX.Element {
  const help = field.help && <small>{field.help}</small>;
  if (field.kind === "switch") {
    return (
      <label class="check">
        <input
          type="checkbox"
          checked={text === "true"}
          onChange={(event) => onText(field.name, String(event.currentTarget.checked))}
        />
        <span>{field.name}</span>
        {help}
      </label>
    );
  }
  return (
    <label class="field">
      <span>{field.name}</span>
      <Input field={field} text={text} onText={onText} />
      {help}
    </label>
  );
}

function Input({ field, text, onText }: SingleProperties): JSX.Element {
  const write = (event: { currentTarget: { value: string } }): void => onText(field.name, event.currentTarget.value);
  if (field.kind === "choice") {
    return (
      <select name={field.name} value={text} onChange={write}>
        {!field.choices.includes(field.preset) && <option value="">{words().launch.usual}</option>}
        {field.choices.map((choice) => (
          <option key={choice} value={choice}>
            {choice}
          </option>
        ))}
      </select>
    );
  }
  if (field.kind === "number") {
    return (
      <input
        name={field.name}
        type="number"
        step={field.isWhole ? 1 : "any"}
        min={field.least}
        max={field.most}
        value={text}
        onInput={write}
      />
    );
  }
  const hint = field.kind === "json" ? "{ }" : field.kind === "list" ? "a, b" : words().launch.usual;
  return <input name={field.name} type="text" autocomplete="off" placeholder={hint} value={text} onInput={write} />;
}
