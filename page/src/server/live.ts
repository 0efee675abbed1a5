/** Follows the cluster: one stream into signals, which nothing else writes. Nothing polls. */
import { computed, signal } from "@preact/signals";
import { callCell, Refused, send, urlOf } from "./call";
import { amended, NOTHING, type Cells, type Fleet } from "./changes";
import { learn } from "./me";
import type { LiveChange } from "./shapes";

/** `closed`: the server asks for a key that the page does not have. */
export type Link = "connecting" | "live" | "lost" | "closed";

export const fleet = signal<Fleet>(NOTHING);
export const link = signal<Link>("connecting");
/** Null where the server is no gateway. */
export const cells = signal<Cells | null>(null);
/** Why the server lets nobody follow it, in its own sentence. */
export const refusal = signal("");
/** When the server was last heard. */
export const heardAt = signal(0);
/** How often it was found again after it was lost: what a screen asked for by itself may be old then. */
export const returns = signal(0);
/** The server's version when the page was opened: a page that is older than its server should be loaded again. */
const firstServer = signal("");
export const isOutdated = computed(() => firstServer.value !== "" && fleet.value.server !== firstServer.value);
export const models = computed(() => [...fleet.value.models.values()].sort((a, b) => a.uid.localeCompare(b.uid)));
export const hasLoaded = computed(() => heardAt.value > 0);

/** The server beats every two seconds; a stream that is silent for longer is dead, whatever its connection looks like. */
const SILENT_MS = 6000;
const RETRY_MS = 1000;
/** A browser gives one server six connections, and the seventh tab would hang: nobody looks at a hidden one. */
const HIDDEN_MS = 2000;

/** The cell that somebody chose, or that the gateway did. */
let chosen = "";
let source: EventSource | null = null;
/** Until when a server that refused the stream is left alone. */
let retryAt = 0;
/** Of the last change that was read: a stream that is opened anew goes on from there. */
let lastId = "";
/** What screens want to be told besides models and nodes, and who takes it: by topic and by kind of event. */
const wanted = new Map<string, number>();
const takers = new Map<Taken, Set<(data: string) => void>>();
let turning = 0;
let openedTopics = "";
/** Up to where the log on the screen was read. */
let logCursor = "";
export const keepCursor = (cursor: string): void => void (logCursor = cursor);
/** Of the events that topics bring. */
const KINDS = ["figures", "workers", "events", "log"] as const;
type Taken = (typeof KINDS)[number];
/** Screens change one after another, and want the same again. */
const TURN_MS = 50;
let hiding = 0;

export function take(data: string): void {
  const change = JSON.parse(data) as LiveChange;
  fleet.value = amended(fleet.value, change);
  if (firstServer.value === "") firstServer.value = change.server;
  hear();
}

function hear(): void {
  heardAt.value = Date.now();
  if (link.value === "lost") returns.value += 1;
  if (link.value !== "live") learn();
  refusal.value = "";
  link.value = "live";
}

function close(): void {
  source?.close();
  source = null;
}

/** Why a stream does not open is told to nobody by the browser; the answer to a plain request for it says it. */
async function findOutWhy(): Promise<void> {
  try {
    const answer = await send("GET", pathOfStream(), { signal: AbortSignal.timeout(SILENT_MS) });
    await answer.body?.cancel();
  } catch (error) {
    // Meanwhile it may have opened, and without a key nobody tries.
    if (!(error instanceof Refused) || error.status >= 500 || link.value === "live" || link.value === "closed") return;
    refusal.value = error.message;
    retryAt = Date.now() + error.retryAfterMs;
  }
}

function lose(): void {
  if (link.value === "closed") return;
  link.value = heardAt.value === 0 && link.value === "connecting" ? "connecting" : "lost";
}

/** All that is on the screen is of one cell. */
function takeCells(data: string): void {
  const told = JSON.parse(data) as Cells;
  if (told.cell !== cells.value?.cell) forget();
  cells.value = told;
  callCell(told.cell);
}

function forget(): void {
  lastId = "";
  logCursor = "";
  fleet.value = NOTHING;
  firstServer.value = "";
  heardAt.value = 0;
  refusal.value = "";
}

export function choose(name: string): void {
  if (cells.value === null) return;
  chosen = name;
  forget();
  cells.value = { ...cells.value, cell: name };
  callCell(name);
  unlock();
}

/** Tells `taker` the events of a kind that a topic brings, until what this returns is called. */
export function want(topic: string, kind: Taken, taker: (data: string) => void): () => void {
  wanted.set(topic, (wanted.get(topic) ?? 0) + 1);
  const others = takers.get(kind) ?? new Set();
  takers.set(kind, others.add(taker));
  turn();
  return () => {
    others.delete(taker);
    const left = (wanted.get(topic) ?? 1) - 1;
    if (left > 0) wanted.set(topic, left);
    else wanted.delete(topic);
    turn();
  };
}

function turn(): void {
  clearTimeout(turning);
  turning = window.setTimeout(() => {
    if (source !== null && openedTopics !== String(topics())) open();
  }, TURN_MS);
}

const topics = (): string[] => [...wanted.keys()].sort();

function pathOfStream(): string {
  const query = new URLSearchParams();
  for (const topic of topics()) query.append("topic", topic);
  for (const [name, value] of Object.entries({ cell: chosen, since: lastId, cursor: logCursor })) if (value !== "") query.set(name, value);
  return `/v1/changes${query.size > 0 ? `?${query}` : ""}`;
}

export function open(): void {
  close();
  retryAt = 0;
  openedTopics = String(topics());
  const opened = (source = new EventSource(urlOf(pathOfStream())));
  const openedAt = Date.now();
  opened.onmessage = (event: MessageEvent<string>) => {
    lastId = event.lastEventId;
    take(event.data);
  };
  for (const kind of KINDS) {
    opened.addEventListener(kind, (event: MessageEvent<string>) => takers.get(kind)?.forEach((taker) => taker(event.data)));
  }
  opened.addEventListener("cells", (event: MessageEvent<string>) => takeCells(event.data));
  opened.addEventListener("beat", hear);
  opened.addEventListener("ended", lock);
  opened.onerror = () => {
    lose();
    if (opened.readyState === EventSource.CLOSED) void findOutWhy();
  };
  watch(opened, openedAt);
}

/** The page needs a key. */
export function lock(): void {
  link.value = "closed";
  refusal.value = "";
  close();
}

export function unlock(): void {
  link.value = "connecting";
  open();
}

function watch(opened: EventSource, since: number): void {
  if (source !== opened) return;
  const isSilent = Date.now() - Math.max(heardAt.value, since) > SILENT_MS;
  if ((isSilent || opened.readyState === EventSource.CLOSED) && Date.now() >= retryAt) {
    lose();
    open();
    return;
  }
  setTimeout(() => watch(opened, since), RETRY_MS);
}

export function follow(): void {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = window.setTimeout(close, HIDDEN_MS);
    else if (source === null && link.value !== "closed") open();
  });
  open();
}
