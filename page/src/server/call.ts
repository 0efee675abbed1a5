/** Calls the server that the page came from. */

/** Beside the page's own folder, whatever a proxy puts before both. */
export const urlOf = (path: string): string => new URL(`..${path}`, document.baseURI).href;

/** What the server refused, in its own sentence. */
export class Refused extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly field: string | null,
    /** How long the server wants to be left alone. */
    readonly retryAfterMs: number,
  ) {
    super(message);
  }
}

type ErrorBody = { readonly detail?: string; readonly error?: { message?: string; code?: string; param?: string | null } };
export type Method = "GET" | "POST" | "PUT" | "DELETE";
/** Behind a gateway, the cluster that every call is for. */
let cell = "";
export const callCell = (name: string): void => void (cell = name);

export type Options = { body?: unknown; signal?: AbortSignal | undefined };

/** Called when the server asks for a key, so that the page can. */
let onLocked = (): void => undefined;
export const whenLocked = (call: () => void): void => void (onLocked = call);

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export const isAbort = (error: unknown): boolean => error instanceof DOMException && error.name === "AbortError";

async function refusalOf(answer: Response): Promise<Refused> {
  const body = (await answer.json().catch(() => ({}))) as ErrorBody;
  const message = body.error?.message ?? body.detail ?? `${answer.status} ${answer.statusText}`;
  return new Refused(message, answer.status, body.error?.code ?? "", body.error?.param ?? null, (Number(answer.headers.get("Retry-After")) || 0) * 1000);
}

/** The answer as it comes; throws `Refused` for one that is an error. */
export async function send(method: Method, path: string, { body, signal }: Options = {}): Promise<Response> {
  const isForm = body instanceof FormData;
  const answer = await fetch(urlOf(path), {
    method,
    signal: signal ?? null,
    ...(body === undefined ? {} : { body: isForm ? body : JSON.stringify(body) }),
    headers: {
      ...(body === undefined || isForm ? {} : { "Content-Type": "application/json" }),
      ...(cell === "" ? {} : { "X-Cell": cell }),
    },
  });
  if (answer.status === 401) onLocked();
  if (!answer.ok) throw await refusalOf(answer);
  return answer;
}

export async function ask<T>(method: Method, path: string, options: Options = {}): Promise<T> {
  const answer = await send(method, path, options);
  return (await answer.json()) as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => ask<T>("GET", path, { signal });
export const post = <T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> =>
  ask<T>("POST", path, { body, signal });

/** A name within an address. Half of a letter, which JSON lets through, has no place in one. */
export const encoded = (name: string): string => encodeURIComponent(name.toWellFormed());

/** A name within a path: each part of one with slashes by itself. */
export const inPath = (name: string): string => name.split("/").map(encoded).join("/");
