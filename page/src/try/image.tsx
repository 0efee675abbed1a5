/** A picture from words, and how it comes about step by step. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { stream } from "../server/sse";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";
import { beginLater, Later } from "./later";
import { newId, RequestProgress } from "./progress";
import { Proof, type Made, type Receipt } from "./receipt";
import { RunRow } from "./run_row";

const PATH = "/v1/images/generations";
/** Previews of one picture: as many as OpenAI's clients may ask for. */
const PREVIEWS = 3;
type Drawn = {
  readonly type?: string;
  readonly b64_json?: string;
  readonly output_format?: string;
  readonly partial_image_index?: number;
  readonly receipt?: Receipt;
  readonly error?: { readonly message?: string };
};
type Shown = { readonly source: string; readonly isWhole: boolean; readonly step: number; readonly made: Made | null };

/** Only pictures: what else the server might call it is not shown. */
function sourceOf(drawn: Drawn): string {
  const format = ["png", "jpeg", "webp"].find((each) => each === drawn.output_format) ?? "png";
  return `data:image/${format};base64,${drawn.b64_json ?? ""}`;
}

function bodyOf(uid: string, data: FormData): Record<string, unknown> {
  const text = (name: string): string => String(data.get(name) ?? "").trim();
  const number = (name: string): Record<string, number> => (text(name) === "" ? {} : { [name]: Number(text(name)) });
  return {
    model: uid,
    prompt: text("prompt"),
    ...(text("negative_prompt") ? { negative_prompt: text("negative_prompt") } : {}),
    ...(text("size") ? { size: text("size") } : {}),
    ...number("num_inference_steps"),
    ...number("seed"),
  };
}

export function Image({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [shown, setShown] = useState<Shown | null>(null);
  const [id, setId] = useState("");
  const run = useRun();
  const submit = (event: SubmitEvent & { currentTarget: HTMLFormElement }): void => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    const id = newId();
    const body = { ...bodyOf(model.uid, data), stream: true, partial_images: PREVIEWS };
    note(model.uid, { path: PATH, body });
    setId(id);
    setShown(null);
    if (data.has("later")) {
      run.begin((signal) => beginLater(PATH, { ...bodyOf(model.uid, data), background: true, partial_images: PREVIEWS }, signal));
      return;
    }
    run.begin(async (signal) => {
      for await (const drawn of stream<Drawn>(PATH, { body: { ...body, request_id: id }, signal })) {
        if (drawn.error) throw new Error(drawn.error.message ?? "");
        const isWhole = drawn.type?.endsWith("completed") ?? false;
        const made = isWhole && drawn.receipt ? { body, receipt: drawn.receipt, data: drawn.b64_json ?? "" } : null;
        setShown({ source: sourceOf(drawn), isWhole, step: (drawn.partial_image_index ?? 0) + 1, made });
      }
    });
  };
  return (
    <div class="split">
      <form class="stack" onSubmit={submit}>
        <label class="field">
          <span>{say.prompt}</span>
          <textarea name="prompt" rows={3} required>{say.lighthouse}</textarea>
        </label>
        <label class="field">
          <span>{say.without}</span>
          <input name="negative_prompt" />
        </label>
        <div class="form-grid">
          <label class="field">
            <span>{say.size}</span>
            <input name="size" placeholder="512x512" pattern="\d+x\d+" />
          </label>
          <label class="field">
            <span>{say.steps}</span>
            <input name="num_inference_steps" type="number" min={1} max={200} />
          </label>
          <label class="field">
            <span>{say.seed}</span>
            <input name="seed" type="number" min={0} />
          </label>
        </div>
        <Later />
        <RunRow run={run} label={say.draw} canStop />
      </form>
      <div class="stack">
        {run.isBusy && <RequestProgress key={id} id={id} />}
        <Picture shown={shown} />
        {shown?.made && <Proof key={shown.source} made={shown.made} />}
      </div>
    </div>
  );
}

function Picture({ shown }: { shown: Shown | null }): JSX.Element | null {
  const say = words().try;
  if (shown === null) return null;
  return (
    <figure class="stack tight pictures">
      <div class="stack tight">
        <img src={shown.source} alt={shown.isWhole ? say.picture : say.preview(shown.step)} data-whole={shown.isWhole} />
        <figcaption class="row spread">
          <small>{shown.isWhole ? say.picture : say.preview(shown.step)}</small>
          {shown.isWhole && (
            <a href={shown.source} download="picture">
              {say.download}
            </a>
          )}
        </figcaption>
      </div>
    </figure>
  );
}
