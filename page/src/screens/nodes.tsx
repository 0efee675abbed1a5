/** The machines: what each has, and which model holds how much of it. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { bytes } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Bar, ErrorNote, Note, State, Waiting } from "../kit/parts";
import { kindOf } from "../kit/states";
import { encoded, send } from "../server/call";
import { fleet, hasLoaded, models } from "../server/live";
import type { LiveNode } from "../server/shapes";
import { words } from "../words";

type Share = { readonly uid: string; readonly memory: number; readonly cards: number };

/** What the workers of each model claim on a node, the largest first. */
function sharesOn(node: LiveNode): Share[] {
  const shares = models.value.map((model): Share => {
    const workers = model.workers.filter((worker) => worker.node === node.ip);
    return {
      uid: model.uid,
      memory: workers.reduce((sum, worker) => sum + worker.claim_bytes, 0),
      cards: workers.reduce((sum, worker) => sum + worker.card_bytes, 0),
    };
  });
  return shares.filter((share) => share.memory + share.cards > 0).sort((a, b) => b.memory + b.cards - a.memory - a.cards);
}

export function Nodes(): JSX.Element {
  const say = words().nodes;
  const nodes = fleet.value.nodes;
  return (
    <div class="stack">
      <div class="row">
        <h1>{say.title}</h1>
        {nodes.length > 0 && <span class="dim">{say.count(nodes.length)}</span>}
      </div>
      {!hasLoaded.value && <Waiting />}
      <div class="cards">
        {nodes.map((node) => (
          <NodeCard key={node.id} node={node} />
        ))}
      </div>
      <p class="dim">
        {say.join} <code>cluster join</code>
      </p>
    </div>
  );
}

function NodeCard({ node }: { node: LiveNode }): JSX.Element {
  const say = words().nodes;
  const shares = sharesOn(node);
  const cardBytes = (node.card_bytes ?? 0) * node.gpus;
  return (
    <section class="panel stack tight" aria-label={node.name}>
      <div class="row spread">
        <h2 class="name">{node.name}</h2>
        <State kind={kindOf(node.state)}>{words().nodeState(node.state)}</State>
      </div>
      <p class="dim">{say.facts(node.is_head, node.ip, node.cpus, node.workers)}</p>
      <Room
        title={say.memory}
        claimed={node.memory_claimed}
        total={node.memory_bytes}
        parts={shares.map((share) => share.memory)}
      />
      {node.gpus > 0 && cardBytes > 0 && (
        <Room
          title={say.cards(node.gpus)}
          claimed={node.card_claimed}
          total={cardBytes}
          parts={shares.map((share) => share.cards)}
        />
      )}
      <p class="legend">
        {shares.map((share) => (
          <a key={share.uid} href={hrefOf("models", share.uid)}>
            {share.uid} {bytes(share.memory + share.cards)}
          </a>
        ))}
      </p>
      {node.room_reason && <Note kind="warn">{node.room_reason}</Note>}
      <Marks node={node} />
    </section>
  );
}

type RoomProperties = { title: string; claimed: number; total: number; parts: readonly number[] };

function Room({ title, claimed, total, parts }: RoomProperties): JSX.Element {
  const text = words().nodes.claimed(bytes(claimed), bytes(total));
  return (
    <div class="stack tight">
      <div class="row spread">
        <span>{title}</span>
        <small>{text}</small>
      </div>
      <Bar parts={parts.map((part) => part / Math.max(1, total))} label={`${title}: ${text}`} isFull={claimed > 0.9 * total} />
    </div>
  );
}

/** What may be done with a node: whether models are placed there. */
const MARKS: Readonly<Record<string, readonly string[]>> = {
  ready: ["cordoned", "draining"],
  cordoned: ["open", "draining"],
  draining: ["open"],
};

function Marks({ node }: { node: LiveNode }): JSX.Element {
  const [error, setError] = useState<unknown>(null);
  const mark = (wanted: string): void => {
    setError(null);
    send("PUT", `/v1/cluster/nodes/${encoded(node.id)}`, { body: { mark: wanted } }).catch(setError);
  };
  return (
    <div class="stack tight">
      <div class="row">
        {(MARKS[node.state] ?? []).map((wanted) => (
          <button key={wanted} onClick={() => mark(wanted)} title={words().nodes.markHelp(wanted)}>
            {words().nodes.mark(wanted)}
          </button>
        ))}
      </div>
      <ErrorNote error={error} />
    </div>
  );
}
