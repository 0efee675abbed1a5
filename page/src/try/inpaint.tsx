/** A part of a picture, drawn anew: the white part of a mask that is painted here. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ask } from "../server/call";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { useRun } from "./call";
import { BLANK, type Mask, type Spot } from "./mask";
import { MaskEditor } from "./mask_editor";
import { fileOf } from "./mask_files";
import { RunRow } from "./run_row";

const PATH = "/v1/images/inpainting";
type Answer = { readonly data: readonly { readonly b64_json?: string }[]; readonly output_format?: string };
type Given = { readonly file: File; readonly address: string; readonly size: Spot };

async function opened(file: File): Promise<Given> {
  const bitmap = await createImageBitmap(file);
  const size: Spot = [bitmap.width, bitmap.height];
  bitmap.close();
  return { file, address: URL.createObjectURL(file), size };
}

export function Inpaint({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [given, setGiven] = useState<Given | null>(null);
  const [mask, setMask] = useState<Mask>(BLANK);
  const [result, setResult] = useState<string | null>(null);
  const run = useRun();
  useEffect(() => () => void (given && URL.revokeObjectURL(given.address)), [given]);
  const choose = (file: File | undefined): void => {
    setMask(BLANK);
    setResult(null);
    if (file !== undefined) run.begin(async () => setGiven(await opened(file)));
  };
  const submit = (event: SubmitEvent & { currentTarget: HTMLFormElement }): void => {
    event.preventDefault();
    const prompt = String(new FormData(event.currentTarget).get("prompt") ?? "");
    if (given === null) return;
    run.begin(async (signal) => {
      const body = new FormData();
      const fields = { model: model.uid, prompt, response_format: "b64_json" };
      for (const [name, value] of Object.entries(fields)) body.set(name, value);
      body.set("image", given.file);
      body.set("mask_image", await fileOf(mask, given.size), "mask.png");
      const { data } = await ask<Answer>("POST", PATH, { body, signal });
      setResult(`data:image/png;base64,${data[0]?.b64_json ?? ""}`);
    });
  };
  return (
    <details>
      <summary>{say.redraw}</summary>
      <form class="split" onSubmit={submit} aria-label={say.redraw}>
        <div class="stack">
          <label class="field">
            <span>{say.redrawn}</span>
            <input type="file" accept="image/png,image/jpeg,image/webp" onChange={(event) => choose(event.currentTarget.files?.[0])} />
          </label>
          <label class="field">
            <span>{say.instead}</span>
            <input name="prompt" required />
          </label>
          <RunRow run={run} label={say.redrawIt} canStop />
          {result && <img class="result" src={result} alt={say.result} />}
        </div>
        {given && <MaskEditor picture={given.address} size={given.size} mask={mask} onMask={setMask} />}
      </form>
    </details>
  );
}
