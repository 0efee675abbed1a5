/** A page that was read: its picture, where on it each line stands, and the lines. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { words } from "../words";

type Point = readonly [number, number];
type ReadLine = { readonly text: string; readonly polygon: readonly Point[]; readonly score?: number | null };
export type Page = {
  readonly page: number;
  readonly width: number;
  readonly height: number;
  readonly blocks: readonly { readonly lines?: readonly ReadLine[] }[];
  readonly text: string;
};

const linesOn = (page: Page): ReadLine[] => page.blocks.flatMap((block) => block.lines ?? []);

/** The address of the picture while it is shown; of a PDF the server sends one. */
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

export function Sheet({ page, sheet, file }: { page: Page; sheet: string | null; file: File | null }): JSX.Element {
  const say = words().try;
  const [lit, setLit] = useState<number | null>(null);
  const lines = linesOn(page);
  const own = usePicture(file);
  const picture = sheet ?? own;
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
