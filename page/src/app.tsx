/** The frame around every screen: where one can go, how the line to the server is, and what is shown. */
import type { JSX } from "preact";
import { clock } from "./kit/format";
import { isOpen, Palette } from "./kit/palette";
import { hrefOf, place } from "./kit/route";
import { State } from "./kit/parts";
import { About } from "./screens/about";
import { EventsOfAll } from "./screens/events";
import { Keys } from "./screens/keys";
import { Launch } from "./screens/launch";
import { Login } from "./screens/login";
import { Models } from "./screens/models";
import { Nodes } from "./screens/nodes";
import { Registrations } from "./screens/registrations";
import { Requests } from "./screens/requests";
import { Weights } from "./screens/weights";
import { Undo } from "./screens/undo";
import { cells, choose, fleet, hasLoaded, heardAt, isOutdated, link, refusal } from "./server/live";
import { may, type Scope } from "./server/me";
import { words } from "./words";

type Screen = (properties: { rest: readonly string[] }) => JSX.Element;
const SCREENS: Record<string, Screen> = {
  models: Models,
  launch: Launch,
  requests: Requests,
  nodes: Nodes,
  weights: Weights,
  registrations: Registrations,
  events: EventsOfAll,
  keys: Keys,
  about: About,
};

/** What it takes to use a screen, beyond looking. */
const NEEDS: Readonly<Record<string, Scope>> = { launch: "launch" };

function screenOf(name: string): Screen {
  return Object.hasOwn(SCREENS, name) ? (SCREENS[name] ?? Models) : Models;
}

export function App(): JSX.Element {
  const { screen, rest } = place.value;
  const isClosed = link.value === "closed";
  const Shown = screenOf(screen);
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        {words().skip}
      </a>
      <Top current={screen} />
      <Palette />
      <Banner />
      <Undo />
      <main id="main" tabIndex={-1} data-stale={link.value === "lost"}>
        {isClosed ? <Login /> : <Shown key={`${screen} ${cells.value?.cell ?? ""}`} rest={rest} />}
      </main>
    </>
  );
}

/** The part of the address behind `#` is the page's own. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Top({ current }: { current: string }): JSX.Element {
  const names = words().screens;
  return (
    <header class="top">
      <a class="brand" href={hrefOf("models")}>
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <rect x="1" y="1" width="6" height="6" rx="1.5" />
          <rect x="9" y="1" width="6" height="6" rx="1.5" opacity=".5" />
          <rect x="1" y="9" width="6" height="6" rx="1.5" opacity=".5" />
          <rect x="9" y="9" width="6" height="6" rx="1.5" />
        </svg>
        Cluster
      </a>
      <nav aria-label={words().navigation}>
        {Object.entries(names).filter(([name]) => may(NEEDS[name] ?? "list")).map(([name, label]) => (
          <a key={name} href={hrefOf(name)} aria-current={name === current ? "page" : undefined}>
            {label}
          </a>
        ))}
      </nav>
      <button type="button" class="quiet wide" title={words().palette.title} onClick={() => (isOpen.value = true)}>
        {words().palette.hint}
      </button>
      <Cell />
      <Line />
    </header>
  );
}

/** Behind a gateway: which cluster is shown, and a way to another. */
function Cell(): JSX.Element | null {
  const told = cells.value;
  if (told === null) return null;
  return (
    <select aria-label={words().cell.label} value={told.cell} onChange={(event) => choose(event.currentTarget.value)}>
      {told.cells.map((name) => (
        <option key={name} value={name}>
          {told.left_out.includes(name) ? words().cell.away(name) : name}
        </option>
      ))}
    </select>
  );
}

function Line(): JSX.Element {
  const kinds = { live: "good", connecting: "busy", lost: "bad", closed: "warn" } as const;
  return (
    <span role="status">
      <State kind={kinds[link.value]}>{words().link[link.value]}</State>
    </span>
  );
}

function Banner(): JSX.Element | null {
  const say = words().banner;
  const text =
    refusal.value !== ""
      ? say.refused(refusal.value)
      : link.value === "lost" && hasLoaded.value
        ? say.lost(clock(heardAt.value))
        : link.value === "live" && !fleet.value.hasControl
          ? say.noControl
          : "";
  if (isOutdated.value) {
    return (
      <div class="banner row spread" role="status">
        {say.outdated} <button onClick={() => location.reload()}>{say.reload}</button>
      </div>
    );
  }
  return text ? (
    <div class="banner" role="status">
      {text}
    </div>
  ) : null;
}
