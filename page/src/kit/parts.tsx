/** The small parts that screens are made of, on the platform's own elements. */
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { messageOf, Refused } from "../server/call";
import { words } from "../words";

export type Kind = "good" | "warn" | "bad" | "busy" | "plain";

export function State({ kind, children }: { kind: Kind; children: ComponentChildren }): JSX.Element {
  return (
    <span class="state" data-kind={kind}>
      {children}
    </span>
  );
}

type NoteProperties = { kind?: Kind; isAlert?: boolean; children: ComponentChildren };

export function Note({ kind = "plain", isAlert = kind === "bad", children }: NoteProperties): JSX.Element {
  return (
    <div class="note" data-kind={kind} role={isAlert ? "alert" : undefined}>
      {children}
    </div>
  );
}

/** What a key may not do is nothing that went wrong. */
export function ErrorNote({ error }: { error: unknown }): JSX.Element | null {
  const isForbidden = error instanceof Refused && error.status === 403;
  if (error === null) return null;
  return (
    <Note kind={isForbidden ? "warn" : "bad"} isAlert>
      {messageOf(error)}
    </Note>
  );
}

/** Parts of a whole, next to each other; what they mean is said beside it. */
export function Bar({ parts, label, isFull }: { parts: readonly number[]; label: string; isFull?: boolean }): JSX.Element {
  return (
    <div class={isFull ? "bar warn" : "bar"} role="img" aria-label={label}>
      {parts.map((part, place) => (
        <span key={place} style={{ width: `${Math.min(100, Math.max(0, 100 * part)).toFixed(2)}%` }} />
      ))}
    </div>
  );
}

export function Waiting({ rows = 4 }: { rows?: number }): JSX.Element {
  return (
    <div class="stack" role="status" aria-busy="true" aria-label={words().loading}>
      {Array.from({ length: rows }, (_, row) => (
        <div key={row} class="grey" />
      ))}
    </div>
  );
}

/** Over plain http from another machine a browser lets no page copy. */
export function CopyButton({ text }: { text: string }): JSX.Element | null {
  const [hasCopied, setHasCopied] = useState(false);
  if (!isSecureContext) return null;
  const copy = (): void => {
    void navigator.clipboard.writeText(text).then(() => setHasCopied(true));
  };
  return (
    <button type="button" class="quiet" onClick={copy} onBlur={() => setHasCopied(false)}>
      {hasCopied ? words().copied : words().copy}
    </button>
  );
}

export function Code({ text }: { text: string }): JSX.Element {
  return (
    <div class="code">
      <pre tabIndex={0}>{text}</pre>
      <CopyButton text={text} />
    </div>
  );
}

export type Question = { title: string; text: string; act: string; run: () => Promise<void> };

/** Asks before something that cannot be undone. */
export function Confirm({ question, onClose }: { question: Question; onClose: () => void }): JSX.Element {
  const box = useRef<HTMLDialogElement>(null);
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setIsBusy] = useState(false);
  useEffect(() => box.current?.showModal(), []);
  const run = async (): Promise<void> => {
    setIsBusy(true);
    try {
      await question.run();
      onClose();
    } catch (caught) {
      setError(caught);
      setIsBusy(false);
    }
  };
  return (
    <dialog ref={box} onClose={onClose} aria-label={question.title}>
      <div class="stack">
        <h2>{question.title}</h2>
        <p>{question.text}</p>
        <ErrorNote error={error} />
        <div class="row">
          <button type="button" class="danger" disabled={isBusy} onClick={() => void run()}>
            {question.act}
          </button>
          <button type="button" onClick={onClose}>
            {words().keep}
          </button>
        </div>
      </div>
    </dialog>
  );
}
