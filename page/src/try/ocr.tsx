/** The text of a page, and where on it each line stands. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote } from "../kit/parts";
import { saved } from "../kit/save";
import { send } from "../server/call";
import { stream } from "../server/sse";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";
import { beginLater, Later } from "./later";
import { RunRow } from "./run_row";
import { Sheet, type Page } from "./sheet";

const PATH = "/v1/images/ocr";
type Event = {
  readonly page?: Page | number;
  readonly done?: number;
  readonly pages?: number;
  readonly sheet?: { readonly b64_json: string };
  readonly error?: { message?: string };
};
/** `sheet`: the page as a picture, where the file is not one itself. */
type Arrived = { readonly page: Page; readonly sheet: string | null; readonly of: number };

export function Ocr({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [pages, setPages] = useState<readonly Arrived[]>([]);
  const [file, setFile] = useState<File | null>(null);
  const run = useRun();
  const submit = (event: SubmitEvent & { currentTarget: HTMLFormElement }): void => {
    event.preventDefault();
    if (file === null) return;
    if (new FormData(event.currentTarget).has("later")) {
      run.begin((signal) => beginLater(PATH, formOf(model.uid, file, { background: "true" }), signal));
      return;
    }
    setPages([]);
    note(model.uid, { path: PATH, body: { model: model.uid, output_format: "json", image: file.name } });
    run.begin((signal) => read(model.uid, file, signal, (page) => setPages((last) => [...last, page])));
  };
  return (
    <div class="stack">
      <form class="stack" onSubmit={submit}>
        <label class="field narrow" onDragOver={(event) => event.preventDefault()} onDrop={(event) => dropped(event, setFile)}>
          <span>{say.document}</span>
          <input
            type="file"
            accept="image/*,application/pdf"
            required={file === null}
            onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)}
          />
          <small>{file ? file.name : say.drop}</small>
        </label>
        <Later />
        <RunRow run={run} label={say.read} canStop />
      </form>
      {pages.length > 0 && file !== null && (
        <div class="row">
          <small role="status">{say.pages(pages.length, pages[0]?.of ?? 1)}</small>
          <Searchable uid={model.uid} file={file} />
        </div>
      )}
      {pages.map(({ page, sheet }) => (
        <Sheet key={page.page} page={page} sheet={sheet} file={file} />
      ))}
    </div>
  );
}

function dropped(event: DragEvent, onFile: (file: File) => void): void {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) onFile(file);
}

function formOf(uid: string, file: File, more: Readonly<Record<string, string>>): FormData {
  const body = new FormData();
  const fields = { model: uid, output_format: "json", ...more };
  for (const [name, value] of Object.entries(fields)) body.set(name, value);
  body.set("image", file);
  return body;
}

async function read(uid: string, file: File, signal: AbortSignal, onPage: (page: Arrived) => void): Promise<void> {
  const body = formOf(uid, file, { stream: "true", sheet: "true" });
  for await (const event of stream<Event>(PATH, { body, signal })) {
    if (event.error) throw new Error(event.error.message ?? "");
    if (typeof event.page !== "object") continue;
    const sheet = event.sheet ? `data:image/png;base64,${event.sheet.b64_json}` : null;
    onPage({ page: event.page, sheet, of: event.pages ?? 1 });
  }
}

/** The same file with its text beneath, to be searched and copied from. */
function Searchable({ uid, file }: { uid: string; file: File }): JSX.Element {
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setIsBusy] = useState(false);
  const fetchPdf = async (): Promise<void> => {
    setIsBusy(true);
    setError(null);
    try {
      const answer = await send("POST", PATH, { body: formOf(uid, file, { output_format: "pdf" }) });
      saved(await answer.blob(), `${file.name.replace(/\.\w+$/, "")}-searchable.pdf`);
    } catch (caught) {
      setError(caught);
    }
    setIsBusy(false);
  };
  return (
    <>
      <button type="button" disabled={isBusy} onClick={() => void fetchPdf()}>
        {words().try.searchable}
      </button>
      <ErrorNote error={error} />
    </>
  );
}
