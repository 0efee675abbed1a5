/** Ctrl-K: to any screen or model by a few letters of its name. */
import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { go } from "./route";
import { models } from "../server/live";
import { words } from "../words";

export const isOpen = signal(false);

export type Target = { readonly label: string; readonly parts: readonly string[] };
const MOST = 12;

/** Those whose name has the letters in their order, the ones that begin with them first. Pure. */
export function matching(targets: readonly Target[], typed: string): Target[] {
  const wanted = typed.toLowerCase().trim();
  const ranked = targets
    .map((target) => ({ target, rank: rankOf(target.label.toLowerCase(), wanted) }))
    .filter(({ rank }) => rank >= 0)
    .sort((a, b) => a.rank - b.rank);
  return ranked.slice(0, MOST).map(({ target }) => target);
}

function rankOf(name: string, wanted: string): number {
  if (name.startsWith(wanted)) return 0;
  if (name.includes(wanted)) return 1;
  let at = -1;
  for (const letter of wanted) {
    at = name.indexOf(letter, at + 1);
    if (at < 0) return -1;
  }
  return 2;
}

export function followKeys(): void {
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "k") return;
    event.preventDefault();
    isOpen.value = !isOpen.value;
  });
}

function targetsNow(): Target[] {
  const screens = Object.entries(words().screens).map(([name, label]) => ({ label, parts: [name] }));
  const register = { label: words().registrations.register, parts: ["registrations", "new"] };
  return [...screens, register, ...models.value.map(({ uid }) => ({ label: uid, parts: ["models", uid] }))];
}

export function Palette(): JSX.Element | null {
  return isOpen.value ? <Opened /> : null;
}

function Opened(): JSX.Element {
  const say = words().palette;
  const box = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  const [chosen, setChosen] = useState(0);
  const targets = matching(targetsNow(), typed);
  const close = (): void => void (isOpen.value = false);
  const open = (target: Target | undefined): void => {
    if (target) go(...target.parts);
    close();
  };
  const move = (event: KeyboardEvent): void => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    setChosen((last) => Math.max(0, Math.min(targets.length - 1, last + step)));
  };
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    open(targets[chosen]);
  };
  // Before the next key: it is typed here already.
  useLayoutEffect(() => box.current?.showModal(), []);
  return (
    <dialog ref={box} class="palette" aria-label={say.title} onClose={close} onKeyDown={move}>
      <form onSubmit={submit}>
        <input
          autofocus
          autocomplete="off"
          aria-label={say.title}
          placeholder={say.title}
          value={typed}
          onInput={(event) => (setTyped(event.currentTarget.value), setChosen(0))}
        />
      </form>
      <ul class="lines">
        {targets.map((target, place) => (
          <li key={target.parts.join("/")}>
            <button type="button" data-lit={place === chosen} onClick={() => open(target)}>
              {target.label}
            </button>
          </li>
        ))}
      </ul>
    </dialog>
  );
}
