/** A picture, and over it the part that is to be drawn anew, painted with a brush, a lasso or keys. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ErrorNote } from "../kit/parts";
import { saved } from "../kit/save";
import { words } from "../words";
import { after, redo, undo, type Mask, type Spot, type Tool } from "./mask";
import { MaskCanvas } from "./mask_canvas";
import { fileOf, loadedFrom } from "./mask_files";

type Properties = { picture: string; size: Spot; mask: Mask; onMask: (mask: Mask) => void };
const TOOLS: readonly Tool[] = ["brush", "erase", "lasso"];
const ZOOMS = [1, 1.5, 2, 3, 4] as const;

export function MaskEditor({ picture, size, mask, onMask }: Properties): JSX.Element {
  const say = words().try;
  const most = Math.max(...size);
  const [tool, setTool] = useState<Tool>("brush");
  const [brush, setBrush] = useState(Math.max(4, Math.round(most / 12)));
  const [zoom, setZoom] = useState(0);
  return (
    <div class="stack tight">
      <div class="row" role="group" aria-label={say.tools}>
        {TOOLS.map((each) => (
          <button key={each} type="button" aria-pressed={each === tool} onClick={() => setTool(each)}>
            {say[each]}
          </button>
        ))}
        <button type="button" disabled={mask.done.length === 0} onClick={() => onMask(undo(mask))}>{say.undo}</button>
        <button type="button" disabled={mask.undone.length === 0} onClick={() => onMask(redo(mask))}>{say.redo}</button>
        <button type="button" onClick={() => onMask(after(mask, "invert"))}>{say.invert}</button>
      </div>
      <div class="row">
        <Range label={say.brushSize} least={2} most={most} value={brush} onValue={setBrush} />
        <Range label={say.feather} least={0} most={Math.ceil(most / 8)} value={mask.feather} onValue={(feather) => onMask({ ...mask, feather })} />
        <button type="button" aria-label={say.zoomOut} disabled={zoom === 0} onClick={() => setZoom(zoom - 1)}>−</button>
        <small>{say.zoom(ZOOMS[zoom] ?? 1)}</small>
        <button type="button" aria-label={say.zoomIn} disabled={zoom === ZOOMS.length - 1} onClick={() => setZoom(zoom + 1)}>+</button>
      </div>
      <div class="scroll painting narrow">
        <div class="sheet" style={{ width: `${100 * (ZOOMS[zoom] ?? 1)}%` }}>
          <img src={picture} alt={say.picture} />
          <MaskCanvas size={size} mask={mask} tool={tool} brush={brush} onMask={onMask} />
        </div>
      </div>
      <small id="mask-help">{say.maskHelp}</small>
      <Files size={size} mask={mask} onMask={onMask} />
    </div>
  );
}

type RangeProperties = { label: string; least: number; most: number; value: number; onValue: (value: number) => void };

function Range({ label, least, most, value, onValue }: RangeProperties): JSX.Element {
  return (
    <label class="row">
      {label}
      <input class="short" type="range" min={least} max={most} value={value} onInput={(event) => onValue(event.currentTarget.valueAsNumber)} />
    </label>
  );
}

function Files({ size, mask, onMask }: Omit<Properties, "picture">): JSX.Element {
  const say = words().try;
  const [error, setError] = useState<unknown>(null);
  const save = (): void => void fileOf(mask, size).then((file) => saved(file, "mask.png"), setError);
  const load = (input: HTMLInputElement): void => {
    const file = input.files?.[0];
    setError(null);
    if (file !== undefined) loadedFrom(file, size).then((loaded) => onMask(after(mask, loaded)), setError);
    // The same one may be chosen again.
    input.value = "";
  };
  return (
    <div class="stack tight">
      <div class="row end">
        <label class="field">
          <span>{say.loadMask}</span>
          <input type="file" accept="image/png,image/jpeg,image/webp" onChange={(event) => load(event.currentTarget)} />
        </label>
        <button type="button" onClick={save}>{say.saveMask}</button>
      </div>
      <ErrorNote error={error} />
    </div>
  );
}
