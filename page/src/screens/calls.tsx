/** The code that calls a model: of the last request that was tried here, or of an example. */
import type { JSX } from "preact";
import { Code } from "../kit/parts";
import { clusterOf, curlOf, openaiOf, xinferenceOf, type Request } from "../kit/snippets";
import { urlOf } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { lastSent, type Sent } from "../try/call";
import { linesOf } from "../try/run_row";
import { words } from "../words";

function exampleOf(model: LiveModel): Sent {
  const say = words().try;
  const examples: Readonly<Record<string, Sent>> = {
    embed: { path: "/v1/embeddings", body: { input: linesOf(say.sentences).slice(0, 2) } },
    rerank: { path: "/v1/rerank", body: { query: say.query, documents: linesOf(say.documents) } },
    classify: { path: "/classify", body: { input: linesOf(say.opinions) } },
    chat: { path: "/v1/chat/completions", body: { messages: [{ role: "user", content: say.hello }] } },
    text2image: { path: "/v1/images/generations", body: { prompt: say.lighthouse } },
    ocr: { path: "/v1/images/ocr", body: { output_format: "json", image: "page.png" } },
  };
  const ability = model.abilities.find((each) => Object.hasOwn(examples, each));
  const example = ability === undefined ? undefined : examples[ability];
  const sent = example ?? { path: "/v1/infer", body: { items: [] } };
  return { path: sent.path, body: { model: model.uid, ...sent.body } };
}

export function Calls({ model }: { model: LiveModel }): JSX.Element {
  const say = words().code;
  const sent = lastSent.value.get(model.uid) ?? exampleOf(model);
  const request: Request = { origin: urlOf("/").replace(/\/$/, ""), ...sent };
  const all: readonly (readonly [string, string | null])[] = [
    ["curl", curlOf(request)],
    ["OpenAI (Python)", openaiOf(request)],
    ["cluster (Python)", clusterOf(request)],
    ["Xinference (Python)", xinferenceOf(request)],
  ];
  return (
    <div class="stack">
      <p class="dim">{lastSent.value.has(model.uid) ? say.last : say.example}</p>
      {all.map(
        ([name, text]) =>
          text !== null && (
            <section key={name} class="stack tight" aria-label={name}>
              <h2>{name}</h2>
              <Code text={text} />
            </section>
          ),
      )}
    </div>
  );
}
