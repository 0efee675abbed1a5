/** The playground of a model, by what it can do. */
import type { JSX } from "preact";
import { Note } from "../kit/parts";
import { rests } from "../kit/states";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { Chat } from "./chat";
import { Classify } from "./classify";
import { Embedding } from "./embedding";
import { Image } from "./image";
import { Inpaint } from "./inpaint";
import { Ocr } from "./ocr";
import { Rerank } from "./rerank";

type Playground = (properties: { model: LiveModel }) => JSX.Element;
const BY_ABILITY: Readonly<Record<string, Playground>> = {
  embed: Embedding,
  rerank: Rerank,
  classify: Classify,
  chat: Chat,
  text2image: Image,
  ocr: Ocr,
};

export function Try({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const ability = model.abilities.find((each) => Object.hasOwn(BY_ABILITY, each));
  const Ground = ability === undefined ? undefined : BY_ABILITY[ability];
  return (
    <div class="stack">
      {rests(model.state) && <Note>{say.asleep}</Note>}
      {!rests(model.state) && model.ready === 0 && <Note kind="warn">{say.notReady}</Note>}
      {Ground ? <Ground model={model} /> : <p class="dim">{say.none(model.abilities.join(", "))}</p>}
      {ability === "text2image" && model.abilities.includes("inpainting") && <Inpaint model={model} />}
    </div>
  );
}
