/** One model: try it, its workers, what they wrote, what happened, and the code that calls it. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { go, hrefOf } from "../kit/route";
import { Confirm, ErrorNote, State, Waiting, type Question } from "../kit/parts";
import { kindOf, rests } from "../kit/states";
import { inPath, send } from "../server/call";
import { fleet, hasLoaded } from "../server/live";
import { may } from "../server/me";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { Events, Logs } from "./history";
import { Calls } from "./calls";
import { Canary } from "./canary";
import { ModelCharts } from "./charts";
import { Edit } from "./edit";
import { How, terminating } from "./models";
import { Replicas } from "./replicas";
import { Bounds, Scale } from "./scale";
import { Try } from "../try/try";

const TABS = ["try", "charts", "replicas", "logs", "events", "code", "edit"] as const;
type Tab = (typeof TABS)[number];
const PANES: Record<Tab, (properties: { model: LiveModel }) => JSX.Element> = {
  try: Try,
  charts: ModelCharts,
  replicas: Replicas,
  logs: Logs,
  events: Events,
  code: Calls,
  edit: Edit,
};

const tabOf = (name: string): Tab => TABS.find((tab) => tab === name) ?? "try";

export function Model({ uid, tab }: { uid: string; tab: string }): JSX.Element {
  const say = words().model;
  const model = fleet.value.models.get(uid);
  const current = tabOf(tab);
  if (model === undefined) {
    return hasLoaded.value ? (
      <div class="stack">
        <h1 class="name">{uid}</h1>
        <p>{say.gone}</p>
        <p>
          <a href={hrefOf("models")}>{say.back}</a>
        </p>
      </div>
    ) : (
      <Waiting />
    );
  }
  const Pane = PANES[current];
  return (
    <div class="stack">
      <Head model={model} />
      <nav class="tabs" aria-label={uid}>
        {TABS.filter((name) => name !== "edit" || may("launch")).map((name) => (
          <a key={name} href={hrefOf("models", uid, name)} aria-current={name === current ? "page" : undefined}>
            {say.tabs[name]}
          </a>
        ))}
      </nav>
      <Pane key={current} model={model} />
    </div>
  );
}

function Head({ model }: { model: LiveModel }): JSX.Element {
  const say = words().model;
  const [question, setQuestion] = useState<Question | null>(null);
  return (
    <div class="stack tight">
      <p>
        <a href={hrefOf("models")}>{say.back}</a>
      </p>
      <div class="row spread">
        <div class="row">
          <h1 class="name">{model.uid}</h1>
          {model.state === "READY" && <State kind={kindOf(model.state)}>{model.state}</State>}
        </div>
        {may("launch") && (
          <div class="row end">
            <Scale model={model} />
            <Rest model={model} />
            <button class="danger" onClick={() => setQuestion(terminating(model, () => go("models")))}>
              {say.terminate}
            </button>
          </div>
        )}
      </div>
      <p class="dim name">
        {model.type} · {model.name}
      </p>
      {model.state !== "READY" && <How model={model} />}
      {model.canary !== null && <Canary canary={model.canary} />}
      {may("launch") && <Bounds model={model} />}
      {question && <Confirm question={question} onClose={() => setQuestion(null)} />}
    </div>
  );
}

function Rest({ model }: { model: LiveModel }): JSX.Element {
  const say = words().model;
  const [error, setError] = useState<unknown>(null);
  const tell = (order: string): void => {
    setError(null);
    send("POST", `/v1/models/${inPath(model.uid)}/${order}`).catch(setError);
  };
  return (
    <div class="stack tight">
      <div class="row">
        {rests(model.state) && <button onClick={() => tell("wake?wait_ready=false")}>{say.wake}</button>}
        {!rests(model.state) && (
          <button title={say.dozeHelp} onClick={() => tell("doze")}>
            {say.doze}
          </button>
        )}
        {model.state !== "ASLEEP" && (
          <button title={say.sleepHelp} onClick={() => tell("sleep")}>
            {say.sleep}
          </button>
        )}
      </div>
      <ErrorNote error={error} />
    </div>
  );
}
