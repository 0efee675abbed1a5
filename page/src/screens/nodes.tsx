/** The machines: what each has, and which model holds how much of it. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { useAnswer } from "../kit/answer";
import { cardsOf, claimedOf, placed, sharesOf, type CardRoom, type Placed, type Share } from "../kit/cards";
import { bytes, ofTotal } from "../kit/format";
import { hrefOf } from "../kit/route";
import { Code, ErrorNote, Note, State, Waiting } from "../kit/parts";
import { kindOf } from "../kit/states";
import { encoded, send } from "../server/call";
import { fleet, hasLoaded, models } from "../server/live";
import type { LiveNode } from "../server/shapes";
import { words } from "../words";

export function Nodes(): JSX.Element {
  const say = words().nodes;
  const nodes = fleet.value.nodes;
  const workers = placed(models.value);
  return (
    <div class="stack">
      <div class="row">
        <h1>{say.title}</h1>
        {nodes.length > 0 && <span class="dim">{say.count(nodes.length)}</span>}
      </div>
      {!hasLoaded.value && <Waiting />}
      {nodes.some((node) => node.cards.some((card) => card.used !== null)) && <p class="dim">{say.usedHelp}</p>}
      <div class="cards">
        {nodes.map((node) => (
          <NodeCard key={node.id} node={node} workers={workers.get(node.ip) ?? []} />
        ))}
      </div>
      {nodes.length > 0 && <Join head={nodes.find((node) => node.is_head)} />}
    </div>
  );
}

function NodeCard({ node, workers }: { node: LiveNode; workers: readonly Placed[] }): JSX.Element {
  const say = words().nodes;
  const all = sharesOf(workers, (worker) => worker.claim_bytes + worker.card_bytes);
  return (
    <section class="panel stack tight node" aria-label={node.name}>
      <div class="row spread">
        <h2>{node.name}</h2>
        <State kind={kindOf(node.state)}>{words().nodeState(node.state)}</State>
      </div>
      <p class="dim">{say.facts(node.is_head, node.ip, node.cpus, node.workers)}</p>
      <Room
        title={say.memory}
        claimed={node.memory_claimed}
        total={node.memory_bytes}
        shares={sharesOf(workers, (worker) => worker.claim_bytes)}
      />
      {node.cards.length > 0 && <Cards rooms={cardsOf(node, workers)} />}
      <p class="legend">
        {all.map((share) => (
          <a key={share.uid} href={hrefOf("models", share.uid)}>
            {share.uid} {bytes(share.bytes)}
          </a>
        ))}
      </p>
      {node.room_reason && <Note kind="warn">{node.room_reason}</Note>}
      <Marks node={node} />
    </section>
  );
}

/** Each by itself: a model needs room on one. */
function Cards({ rooms }: { rooms: readonly CardRoom[] }): JSX.Element {
  const say = words().nodes;
  const names = [...new Set(rooms.map(({ card }) => card.name).filter(Boolean))];
  return (
    <div class="stack rooms">
      <div class="row">
        <span>{say.cards(rooms.length)}</span>
        <small>{names.join(", ")}</small>
      </div>
      {rooms.map((room) => (
        <Card key={room.card.number} room={room} />
      ))}
    </div>
  );
}

/** What is claimed, and beneath it what is in use, to one scale. */
function Card({ room }: { room: CardRoom }): JSX.Element {
  const say = words().nodes;
  const { number, total, used, foreign, foreign_by } = room.card;
  const claimed = claimedOf(room);
  const scale = Math.max(1, total ?? claimed);
  const held = foreign > 0 ? say.foreign(foreign_by, bytes(foreign)) : "";
  const text = [say.claimed(bytes(claimed), total === null ? "?" : bytes(total)), used === null ? "" : say.used(bytes(used)), held]
    .filter(Boolean)
    .join(" · ");
  return (
    <>
      <div class="card">
        <span class="dim">{number}</span>
        <div role="img" aria-label={`${say.card(number)}: ${text}`} title={text}>
          <Segments shares={room.shares} claimed={claimed} size={scale} foreign={foreign} />
          {used !== null && <div class="used" style={widthOf(used, scale)} />}
        </div>
        <small>{total === null ? bytes(claimed) : ofTotal(claimed, total)}</small>
      </div>
      {held && <small class="held">{held}</small>}
    </>
  );
}

const widthOf = (size: number, total: number): { width: string } => ({
  width: `${Math.min(100, (100 * size) / Math.max(1, total)).toFixed(2)}%`,
});

type SegmentsProperties = { shares: readonly Share[]; claimed: number; size: number; foreign?: number };

/** Named where there is room for a name; what is claimed by models that one may not know of has none. */
function Segments({ shares, claimed, size: least, foreign = 0 }: SegmentsProperties): JSX.Element {
  const known = shares.reduce((sum, share) => sum + share.bytes, 0);
  const others = Math.max(0, claimed - known);
  const total = Math.max(least, known + others + foreign);
  return (
    <div class="segments">
      {shares.map(({ uid, bytes: size }) => (
        <span key={uid} style={widthOf(size, total)} title={`${uid} ${bytes(size)}`}>
          {uid}
        </span>
      ))}
      {others > 0 && <span class="others" style={widthOf(others, total)} />}
      {foreign > 0 && <span class="foreign" style={widthOf(foreign, total)} />}
    </div>
  );
}

type RoomProperties = { title: string; claimed: number; total: number; shares: readonly Share[] };

function Room({ title, claimed, total, shares }: RoomProperties): JSX.Element {
  const text = words().nodes.claimed(bytes(claimed), bytes(total));
  return (
    <div class="stack rooms">
      <div class="row spread">
        <span>{title}</span>
        <small>{text}</small>
      </div>
      <div role="img" aria-label={`${title}: ${text}`}>
        <Segments shares={shares} claimed={claimed} size={total} />
      </div>
    </div>
  );
}

/** The command for it, where the server can be reached from elsewhere. */
function Join({ head }: { head: LiveNode | undefined }): JSX.Element {
  const say = words().nodes;
  const { value } = useAnswer<string>("/v1/address");
  const [, host = "", port = ""] = /^(.*):(\d+)$/.exec(value ?? "") ?? [];
  const isLocal = /^(127\.|localhost$|\[?::1)/.test(host);
  const address = `${host === "0.0.0.0" || host.includes("::") ? (head?.ip ?? host) : host}:${port}`;
  return (
    <section class="stack tight narrow" aria-label={say.join}>
      <h2>{say.join}</h2>
      {isLocal ? <p class="dim">{say.joinLocal}</p> : <p class="dim">{say.joinHelp}</p>}
      {isLocal ? <Code text="cluster up --host 0.0.0.0" /> : value !== null && <Code text={`cluster join ${address} --token-file ray.token`} />}
    </section>
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
