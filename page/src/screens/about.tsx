/** What this is, how it looks, and where the rest is described. */
import type { JSX } from "preact";
import { chooseScheme, scheme, type Scheme } from "../kit/scheme";
import { useAnswer } from "../kit/answer";
import { send, urlOf } from "../server/call";
import { fleet, lock } from "../server/live";
import type { WhoAmI } from "../server/shapes";
import { choose, language, words, type Language } from "../words";

const SCHEMES: readonly Scheme[] = ["system", "light", "dark"];

export function About(): JSX.Element {
  const say = words().about;
  const who = useAnswer<WhoAmI>("/v1/session").value;
  return (
    <div class="stack">
      <h1>{say.title}</h1>
      <dl class="facts">
        <dt>{say.version}</dt>
        <dd>{fleet.value.server || "–"}</dd>
        <dt>{say.address}</dt>
        <dd>
          <code>{urlOf("/").replace(/\/$/, "")}</code>
        </dd>
        <dt>{say.you}</dt>
        <dd>{who === null ? "–" : who.name === null ? say.noKeys : say.key(who.name, who.scopes.join(", "))}</dd>
        <dt>{say.routes}</dt>
        <dd>
          <a href={urlOf("/docs")}>{say.docs}</a>
        </dd>
      </dl>
      <div class="row end">
        <label class="field">
          <span>{say.language}</span>
          <select value={language.value} onChange={(event) => choose(event.currentTarget.value as Language)}>
            <option value="en">English</option>
            <option value="zh">中文</option>
          </select>
        </label>
        <label class="field">
          <span>{say.scheme}</span>
          <select value={scheme.value} onChange={(event) => chooseScheme(event.currentTarget.value as Scheme)}>
            {SCHEMES.map((each) => (
              <option key={each} value={each}>
                {say.schemes[each]}
              </option>
            ))}
          </select>
        </label>
        {who !== null && who.name !== null && <button onClick={() => void logOut()}>{say.logOut}</button>}
      </div>
    </div>
  );
}

async function logOut(): Promise<void> {
  await send("DELETE", "/v1/session").catch(() => undefined);
  lock();
}
