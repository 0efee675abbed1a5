/** A declaration with what somebody changed in its form: what was not touched stays as it was declared. Pure. */
import { textOf, valueOf, type Field } from "./form";

export type Declaration = Readonly<Record<string, unknown>>;

/** The fields as they are declared now: their presets are what the form begins with. */
export function declaredIn(fields: readonly Field[], declaration: Declaration): Field[] {
  return fields.map((field) =>
    Object.hasOwn(declaration, field.name) ? { ...field, preset: textOf(declaration[field.name], field.kind) } : field,
  );
}

/** A field that was emptied is declared no more, and has its default again. */
export function edited(declaration: Declaration, fields: readonly Field[], texts: Readonly<Record<string, string>>): Declaration {
  const after: Record<string, unknown> = { ...declaration };
  for (const field of fields) {
    const text = texts[field.name] ?? field.preset;
    if (text === field.preset) continue;
    if (text === "") delete after[field.name];
    else after[field.name] = valueOf(field, text);
  }
  return after;
}

/** A value beside another, as people read it. */
export const written = (value: unknown, usual: string): string =>
  value === undefined || value === null ? usual : typeof value === "string" ? value : JSON.stringify(value);
