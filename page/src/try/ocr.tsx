/** The text of a page, and where on it each line stands. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { stream } from "../server/sse";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";
import { note, useRun } from "./call";
import { beginLater, Later } from "./later";
import { RunRow } from "./run_row";

const PATH = "/v1/images/ocr";
type Point = readonly [number, number];
type ReadLine = { readonly text: string; readonly polygon: readonly Point[]; readonly score?: number | null };
type Page = {
  readonly page: number;
  readonly width: number;
  readonly height: number;
  readonly blocks: readonly { readonly lines?: readonly ReadLine[] }[];
  readonly text: string;
};
type Event = { readonly page?: Page | number; readonly done?: number; readonly pages?: number; readonly error?: { message?: string } };

const linesOn = (page: Page): ReadLine[] => page.blocks.flatMap((block) => block.lines ?? []);

export function Ocr({ model }: { model: LiveModel }): JSX.Element {
  const say = words().try;
  const [pages, setPages] = useState<readonly Page[]>([]);
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
      {pages.map((page) => (
        <Sheet key={page.page} page={page} file={file} />
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

async function read(uid: string, file: File, signal: AbortSignal, onPage: (page: Page) => void): Promise<void> {
  const body = formOf(uid, file, { stream: "true" });
  for await (const event of stream<Event>(PATH, { body, signal })) {
    if (event.error) throw new Error(event.error.message ?? "");
    if (typeof event.page === "object") onPage(event.page);
  }
}

/** The address of the picture while it is shown; a PDF has none here. */
function usePicture(file: File | null): string | null {
  const [address, setAddress] = useState<string | null>(null);
  useEffect(() => {
    if (!file?.type.startsWith("image/") || file.type.includes("svg")) return setAddress(null);
    const made = URL.createObjectURL(file);
    setAddress(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return address;
}

function Sheet({ page, file }: { page: Page; file: File | null }): JSX.Element {
  const say = words().try;
  const [lit, setLit] = useState<number | null>(null);
  const lines = linesOn(page);
  const picture = usePicture(file);
  return (
    <section class="split" aria-label={say.page(page.page)}>
      <div class="sheet" style={{ aspectRatio: `${page.width} / ${page.height}` }}>
        {picture && <img src={picture} alt={say.page(page.page)} />}
        <svg viewBox={`0 0 ${page.width} ${page.height}`} aria-hidden="true">
          {lines.map((line, place) => (
            <polygon
              key={place}
              points={line.polygon.map((point) => point.join(",")).join(" ")}
              data-lit={lit === place}
              onMouseEnter={() => setLit(place)}
            />
          ))}
        </svg>
      </div>
      <ol class="lines" aria-label={say.lines}>
        {lines.map((line, place) => (
          <li key={place}>
            <button type="button" data-lit={lit === place} onClick={() => setLit(place)} onMouseEnter={() => setLit(place)}>
              {line.text} {line.score != null && <small>{line.score.toFixed(2)}</small>}
            </button>
          </li>
        ))}
      </ol>
    </section>
  );
}
