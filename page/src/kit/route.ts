/** Where the page is: the part of the address behind `#`, which no server has to know of. */
import { signal } from "@preact/signals";
import { encoded } from "../server/call";

export type Place = { readonly screen: string; readonly rest: readonly string[] };

/** `#/models/a%2Fb/logs` is the screen `models` with `a/b` and `logs`. */
export function placeOf(hash: string): Place {
  const parts = hash.replace(/^#?\/?/, "").split("/").filter(Boolean).map(decoded);
  return { screen: parts[0] ?? "models", rest: parts.slice(1) };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const hrefOf = (...parts: readonly string[]): string => `#/${parts.map(encoded).join("/")}`;

export const place = signal<Place>({ screen: "models", rest: [] });

export function followRoute(): void {
  const look = (): void => void (place.value = placeOf(location.hash));
  addEventListener("hashchange", look);
  look();
}

export function go(...parts: readonly string[]): void {
  location.hash = hrefOf(...parts);
}
