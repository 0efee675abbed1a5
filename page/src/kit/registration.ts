/** The text of a registration, and the place in it that an error is about. Pure. */
import type { Refused } from "../server/call";

type Fields = Readonly<Record<string, unknown>>;

/** What the server adds by itself. */
const ADDED = ["is_builtin", "cluster_type", "version"];

const isEmpty = (value: unknown): boolean =>
  value === null || value === "" || (typeof value === "object" && Object.keys(value ?? {}).length === 0);

/** A registration to begin with. One of a built-in model goes by another name: its own names stay the catalogue's. */
export function draftOf(fields: Fields): string {
  const kept = Object.entries(fields).filter(([name, value]) => !ADDED.includes(name) && !isEmpty(value));
  // Its name first: it is what is changed most.
  const draft: Record<string, unknown> = { model_name: "", ...Object.fromEntries(kept) };
  if (fields.is_builtin === true) {
    draft.model_name = `my-${String(fields.model_name)}`;
    delete draft.aliases;
  }
  return JSON.stringify(draft, null, 2);
}

export const FIRST_DRAFT = JSON.stringify({ model_name: "my-model", model_id: "owner/repository" }, null, 2);

export type Spot = { readonly start: number; readonly end: number; readonly line: number };

/** The rest of the line from there on. */
function spotAt(text: string, start: number): Spot {
  const end = text.indexOf("\n", start);
  return { start, end: end < 0 ? text.length : end, line: text.slice(0, start).split("\n").length };
}

/** Where a parser stopped. */
function stopIn(text: string, message: string): number {
  const at = /\bline (\d+),? column (\d+)/.exec(message);
  if (at === null) return -1;
  const before = text.split("\n").slice(0, Number(at[1]) - 1);
  return Math.min(text.length, before.reduce((sum, line) => sum + line.length + 1, 0) + Number(at[2]) - 1);
}

const escaped = (word: string): string => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Where a field is, in JSON or TOML. */
const fieldIn = (text: string, name: string): number => text.search(new RegExp(`"${escaped(name)}"\\s*:|^[ \\t]*${escaped(name)}[ \\t]*=`, "m"));

/** Where the registration says what the error is about; null where it does not say it at all. */
export function spotOf(text: string, { message, field }: Pick<Refused, "message" | "field">): Spot | null {
  const named = message.replace(/'[^']*'/g, " ").match(/[A-Za-z_]+/g) ?? [];
  const quoted = [...message.matchAll(/'([^']+)'/g)].map(([, value]) => text.indexOf(`"${value}"`));
  const places = [stopIn(text, message), ...[field ?? "", ...named].filter(Boolean).map((name) => fieldIn(text, name)), ...quoted];
  const start = places.find((place) => place >= 0);
  return start === undefined ? null : spotAt(text, start);
}
