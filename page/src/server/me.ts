/** What the page's key may do. The server decides that; the page only leaves out what would be refused. */
import { signal } from "@preact/signals";
import { get } from "./call";
import type { WhoAmI } from "./shapes";

export type Scope = "list" | "infer" | "launch" | "admin";
export const me = signal<WhoAmI | null>(null);

/** Until the server has said it, everything: most clusters ask for no key. */
export const may = (scope: Scope): boolean => me.value?.scopes.includes(scope) ?? true;

export function learn(): void {
  get<WhoAmI>("/v1/session").then(
    (who) => (me.value = who),
    () => undefined,
  );
}
