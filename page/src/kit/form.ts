/** A form from a JSON schema: a new launch option of the server is a field here without a change of the page. Pure. */

export type Schema = {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly anyOf?: readonly Schema[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
};

export type Kind = "text" | "number" | "switch" | "choice" | "list" | "json";

export type Field = {
  readonly name: string;
  readonly help: string;
  readonly kind: Kind;
  readonly choices: readonly string[];
  /** What it is if nothing is said, as text. */
  readonly preset: string;
  /** A text that is a number is sent as one. */
  readonly takesNumbers: boolean;
  readonly isWhole: boolean;
  readonly least?: number;
  readonly most?: number;
};

/** What a field may be, without the null of those that may be left out. */
function shapesOf(schema: Schema): readonly Schema[] {
  return (schema.anyOf ?? [schema]).filter((shape) => shape.type !== "null");
}

const isNumber = (shape: Schema): boolean => shape.type === "integer" || shape.type === "number";
const isScalar = (shape: Schema): boolean => isNumber(shape) || shape.type === "string" || shape.type === "boolean";

function choicesOf(shapes: readonly Schema[]): readonly string[] {
  const each = shapes.map((shape) => {
    if (shape.enum) return shape.enum.map(String);
    if (shape.const !== undefined) return [String(shape.const)];
    return shape.type === "boolean" && shapes.length > 1 ? ["true", "false"] : null;
  });
  return each.some((choices) => choices === null) ? [] : each.flatMap((choices) => choices ?? []);
}

function kindOf(shapes: readonly Schema[], choices: readonly string[]): Kind {
  const [first] = shapes;
  if (choices.length > 0) return "choice";
  if (first === undefined || shapes.length > 1) return shapes.every(isScalar) ? "text" : "json";
  if (first.type === "boolean") return "switch";
  if (isNumber(first)) return "number";
  if (first.type === "array") return first.items && isScalar(first.items) ? "list" : "json";
  return first.type === "string" ? "text" : "json";
}

/** A value as the text of its field. */
export function textOf(value: unknown, kind: Kind): string {
  if (value === null || value === undefined) return "";
  if (kind === "list" && Array.isArray(value)) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** `defaults` are the model's own, which come before the schema's. */
export function fieldsOf(schema: Schema, defaults: Readonly<Record<string, unknown>> = {}): Field[] {
  return Object.entries(schema.properties ?? {}).map(([name, property]): Field => {
    const shapes = shapesOf(property);
    const choices = choicesOf(shapes);
    const kind = kindOf(shapes, choices);
    const [first] = shapes;
    const inner = kind === "list" ? first?.items : undefined;
    const preset = textOf(Object.hasOwn(defaults, name) ? defaults[name] : property.default, kind);
    return {
      name,
      help: property.description ?? "",
      kind,
      choices,
      preset: kind === "list" || kind === "json" ? preset.replace(/^(\[\]|\{\})$/, "") : preset,
      takesNumbers: inner ? isNumber(inner) : shapes.some(isNumber),
      isWhole: shapes.every((shape) => shape.type === "integer"),
      ...(first?.minimum === undefined ? {} : { least: first.minimum }),
      ...(first?.maximum === undefined ? {} : { most: first.maximum }),
    };
  });
}

const asScalar = (text: string, takesNumbers: boolean): string | number =>
  takesNumbers && text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;

/** What is sent for the text of a field; a text that is no JSON is sent as it is, and the server says what is wrong. */
export function valueOf(field: Field, text: string): unknown {
  switch (field.kind) {
    case "switch":
      return text === "true";
    case "choice":
      return text === "true" ? true : text === "false" ? false : asScalar(text, field.takesNumbers);
    case "list":
      return text.split(",").map((part) => asScalar(part.trim(), field.takesNumbers));
    case "json":
      try {
        return JSON.parse(text) as unknown;
      } catch {
        return text;
      }
    default:
      return asScalar(text, field.takesNumbers);
  }
}

/** Only what differs from the preset is sent: the server's defaults stay the server's. */
export function bodyOf(fields: readonly Field[], texts: Readonly<Record<string, string>>): Record<string, unknown> {
  const changed = fields.filter((field) => {
    const text = texts[field.name] ?? field.preset;
    return text !== field.preset && text !== "";
  });
  return Object.fromEntries(changed.map((field) => [field.name, valueOf(field, texts[field.name] ?? "")]));
}
