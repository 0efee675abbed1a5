/** A conversation; the answer comes word by word, and can be stopped. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote } from "../kit/parts";
import { stream } from "../server/sse";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";

const PATH = "/v1/chat/completions";
type Part =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "image_url"; readonly image_url: { readonly url: string } };
type Message = { readonly role: "system" | "user" | "assistant"; readonly content: string | readonly Part[] };
type Chunk = {
  readonly choices?: readonly { readonly delta?: { readonly content?: string | null } }[];
  readonly usage?: { readonly completion_tokens: number } | null;
  readonly error?: { readonly message?: string };
};

export function Chat({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [system, setSystem] = useState("");
  const [most, setMost] = useState("");
  const [messages, setMessages] = useState<readonly Message[]>([]);
  const [tokens, setTokens] = useState<number | null>(null);
  const [pictures, setPictures] = useState<readonly string[]>([]);
  const run = useRun();
  const submit = (event: SubmitEvent & { currentTarget: HTMLFormElement }): void => {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget).get("message") ?? "").trim();
    if (text === "" || run.isBusy) return;
    event.currentTarget.reset();
    setPictures([]);
    const said: Message[] = [...messages, { role: "user", content: contentOf(text, pictures) }];
    const body = bodyOf(model.uid, system, said, Number(most));
    note(model.uid, { path: PATH, body });
    setTokens(null);
    run.begin((signal) => answer(body, signal, (text) => setMessages([...said, { role: "assistant", content: text }]), setTokens));
    setMessages(said);
  };
  return (
    <div class="stack">
      <div class="row end">
        <label class="field grow">
          <span>{say.system}</span>
          <input value={system} onInput={(event) => setSystem(event.currentTarget.value)} />
        </label>
        <label class="field short">
          <span>{say.mostTokens}</span>
          <input type="number" min={1} value={most} onInput={(event) => setMost(event.currentTarget.value)} />
        </label>
      </div>
      <ol class="stack" aria-label={say.conversation} aria-live="polite">
        {messages.map((message, place) => (
          <li key={place} class="bubble" data-role={message.role}>
            {typeof message.content === "string" ? message.content : message.content.map(shown)}
          </li>
        ))}
      </ol>
      <ErrorNote error={run.error} />
      {model.abilities.includes("vision") && (
        <label class="field narrow">
          <span>{say.addPicture}</span>
          <input
            key={messages.length}
            type="file"
            accept="image/*"
            multiple
            onChange={(event) => void Promise.all([...(event.currentTarget.files ?? [])].map(read)).then(setPictures)}
          />
        </label>
      )}
      <form class="row" onSubmit={submit}>
        <textarea name="message" rows={2} aria-label={say.message} placeholder={say.message} onKeyDown={sendOnEnter} required />
        <button class="primary" disabled={run.isBusy}>{say.send}</button>
        {run.isBusy && <button type="button" onClick={run.stop}>{say.stop}</button>}
        <button type="button" class="quiet" disabled={messages.length === 0} onClick={() => (run.stop(), setMessages([]))}>
          {say.clear}
        </button>
        <small role="status">{run.isBusy ? say.busy : speed(tokens, run.seconds)}</small>
      </form>
    </div>
  );
}

function contentOf(text: string, pictures: readonly string[]): string | readonly Part[] {
  if (pictures.length === 0) return text;
  return [{ type: "text", text }, ...pictures.map((url): Part => ({ type: "image_url", image_url: { url } }))];
}

function shown(part: Part, place: number): JSX.Element {
  if (part.type === "text") return <span key={place}>{part.text}</span>;
  return <img key={place} src={part.image_url.url} alt={words().try.picture} style={{ display: "block", maxWidth: "100%", maxHeight: "12rem" }} />;
}

function read(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error(file.name));
    reader.readAsDataURL(file);
  });
}

function speed(tokens: number | null, seconds: number | null): string {
  return tokens === null || seconds === null ? "" : words().try.speed(tokens, tokens / Math.max(seconds, 0.001));
}

function bodyOf(model: string, system: string, said: readonly Message[], most: number): Record<string, unknown> {
  const first: Message[] = system ? [{ role: "system", content: system }] : [];
  const limit = most > 0 ? { max_tokens: most } : {};
  return { model, messages: [...first, ...said], ...limit, stream: true, stream_options: { include_usage: true } };
}

async function answer(
  body: Record<string, unknown>,
  signal: AbortSignal,
  onText: (text: string) => void,
  onTokens: (tokens: number) => void,
): Promise<void> {
  let text = "";
  for await (const chunk of stream<Chunk>(PATH, { body, signal })) {
    if (chunk.error) throw new Error(chunk.error.message ?? "");
    text += chunk.choices?.[0]?.delta?.content ?? "";
    onText(text);
    if (chunk.usage) onTokens(chunk.usage.completion_tokens);
  }
}

/** Enter sends, as people expect of a chat; with shift it begins a line. */
function sendOnEnter(event: KeyboardEvent & { currentTarget: HTMLTextAreaElement }): void {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  event.currentTarget.form?.requestSubmit();
}
