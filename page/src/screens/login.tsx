/** Asks for a key where the server does. The browser gets a cookie for it that no script can read. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote } from "../kit/parts";
import { send } from "../server/call";
import { unlock } from "../server/live";
import { words } from "../words";

export function Login(): JSX.Element {
  const say = words().login;
  const [error, setError] = useState<unknown>(null);
  const submit = async (event: SubmitEvent & { currentTarget: HTMLFormElement }): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget;
    const key = String(new FormData(form).get("key") ?? "").trim();
    try {
      await send("POST", "/v1/login", { body: { key } });
      form.reset();
      unlock();
    } catch (caught) {
      setError(caught);
    }
  };
  return (
    <form class="panel stack narrow" onSubmit={(event) => void submit(event)}>
      <h1>{say.title}</h1>
      <p class="dim">
        {say.help} <code>cluster keys create</code>
      </p>
      <label class="field">
        <span>{say.key}</span>
        <input name="key" type="password" autocomplete="current-password" required autofocus />
      </label>
      <ErrorNote error={error} />
      <button class="primary">{say.logIn}</button>
    </form>
  );
}
