/** All wanted models, live. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { bytes, duration, ofTotal, percent } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Bar, Confirm, State, Waiting, type Question } from "../kit/parts";
import { Rows } from "../kit/rows";
import { claimed, kindOf, loadingOf } from "../kit/states";
import { inPath, send } from "../server/call";
import { fleet, hasLoaded, models } from "../server/live";
import { may } from "../server/me";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { Model } from "./model";
import { ReplicaCount } from "./scale";
import { declarationOf, offer } from "./undo";

export function Models({ rest }: { rest: readonly string[] }): JSX.Element {
  const [uid, tab] = rest;
  return uid === undefined ? <List /> : <Model key={uid} uid={uid} tab={tab ?? ""} />;
}

function List(): JSX.Element {
  const say = words().models;
  const ready = models.value.filter((model) => model.state === "READY").length;
  return (
    <div class="stack">
      <div class="row spread">
        <div class="row">
          <h1>{say.title}</h1>
          {models.value.length > 0 && <span class="dim">{say.ready(ready, models.value.length)}</span>}
          <Claimed />
        </div>
        {may("launch") && (
          <a class="button primary" href={hrefOf("launch")}>
            {say.launch}
          </a>
        )}
      </div>
      {!hasLoaded.value ? <Waiting /> : models.value.length === 0 ? <None /> : <Some />}
    </div>
  );
}

/** From so many on one searches for one. */
const MANY = 20;

/** Those of whose name, type or state each word that was typed is a part. */
export function matching(all: readonly LiveModel[], typed: string): readonly LiveModel[] {
  const parts = typed.toLowerCase().split(/\s+/).filter(Boolean);
  if (parts.length === 0) return all;
  return all.filter((model) => {
    const text = `${model.uid} ${model.name} ${model.type} ${model.state}`.toLowerCase();
    return parts.every((part) => text.includes(part));
  });
}

function Some(): JSX.Element {
  const say = words().models;
  const [typed, setTyped] = useState("");
  const shown = matching(models.value, typed);
  return (
    <>
      {models.value.length >= MANY && (
        <input
          class="narrow"
          type="search"
          aria-label={say.search}
          placeholder={say.search}
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
      )}
      {shown.length > 0 ? <Table models={shown} /> : <p class="dim">{say.noneLike}</p>}
    </>
  );
}

/** How much of all machines is claimed, in one line. */
function Claimed(): JSX.Element | null {
  const nodes = fleet.value.nodes;
  const total = nodes.reduce((sum, node) => sum + node.memory_bytes, 0);
  const claims = nodes.reduce((sum, node) => sum + node.memory_claimed, 0);
  if (total === 0) return null;
  return (
    <a class="dim" href={hrefOf("nodes")}>
      · {words().nodes.claimed(bytes(claims), bytes(total))}
    </a>
  );
}

function None(): JSX.Element {
  const say = words().models;
  return (
    <div class="panel stack tight">
      <h2>{say.none}</h2>
      <p class="dim">{say.noneHelp}</p>
      <p>
        <a href={hrefOf("launch", "embedding", "all-MiniLM-L6-v2")}>all-MiniLM-L6-v2</a>
        {" · "}
        <a href={hrefOf("launch", "rerank", "ce-tiny")}>ce-tiny</a>
      </p>
    </div>
  );
}

function Table({ models }: { models: readonly LiveModel[] }): JSX.Element {
  const say = words().models;
  const [question, setQuestion] = useState<Question | null>(null);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={say.title}>
      <table aria-rowcount={models.length + 1}>
        <thead>
          <tr>
            <th scope="col">{say.model}</th>
            <th scope="col" class="wide">{say.type}</th>
            <th scope="col">{say.state}</th>
            <th scope="col" class="number wide">{say.replicas}</th>
            <th scope="col" class="number wide">{say.memory}</th>
            <th scope="col" class="number wide">{say.age}</th>
            <td class="wide" />
          </tr>
        </thead>
        <Rows rows={models}>{(model) => <Row key={model.uid} model={model} onAsk={setQuestion} />}</Rows>
      </table>
      {question && <Confirm question={question} onClose={() => setQuestion(null)} />}
    </div>
  );
}

function Row({ model, onAsk }: { model: LiveModel; onAsk: (question: Question) => void }): JSX.Element {
  return (
    <tr>
      <th scope="row" class="name">
        <a href={hrefOf("models", model.uid)}>{model.uid}</a>
        {model.name !== model.uid && <div class="dim">{model.name}</div>}
      </th>
      <td class="wide">{model.type}</td>
      <td>
        <How model={model} />
      </td>
      <td class="number wide">
        <ReplicaCount model={model} />
      </td>
      <td class="number wide">{claimed(model) ? bytes(claimed(model)) : "–"}</td>
      <td class="number wide">{model.created ? duration(Date.now() / 1000 - model.created) : "–"}</td>
      <td class="number wide">
        {may("launch") && (
          <button class="quiet" onClick={() => onAsk(terminating(model))} aria-label={words().model.terminateLabel(model.uid)}>
            {words().model.terminate}
          </button>
        )}
      </td>
    </tr>
  );
}

export function terminating({ uid, state }: LiveModel, done: () => void = () => undefined): Question {
  const say = words().model;
  const isLoading = state === "LOADING" || state === "WAITING";
  return {
    title: isLoading ? say.cancelTitle(uid) : say.terminateTitle(uid),
    text: isLoading ? say.cancelText : say.terminateText,
    act: isLoading ? say.cancel : say.terminate,
    run: async () => {
      const declaration = await declarationOf(uid);
      await send("DELETE", `/v1/models/${inPath(uid)}`);
      if (declaration !== null) offer(uid, declaration);
      done();
    },
  };
}

/** The state of a model, and how far it is or why it is not READY. */
export function How({ model }: { model: LiveModel }): JSX.Element {
  const loading = loadingOf(model);
  return (
    <div class="stack tight">
      <State kind={kindOf(model.state)}>{model.state}</State>
      {loading && (
        <div class="progress">
          <Bar parts={[loading.part]} label={percent(loading.part)} />
          <small>
            {percent(loading.part)} {loading.stage}
            {loading.totalBytes > 0 && ` · ${ofTotal(loading.doneBytes, loading.totalBytes)}`}
          </small>
        </div>
      )}
      {model.reason && <small class="name">{model.reason}</small>}
      {model.canary !== null && <small>{words().canary.row(model.canary.new.percent)}</small>}
    </div>
  );
}
