/** A picture, and over it the part that is to be drawn anew, painted with a brush. */
import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { words } from "../words";
import { after, paint, redo, undo, type Mask, type Spot, type Stroke } from "./mask";

type Properties = { picture: string; size: Spot; mask: Mask; onMask: (mask: Mask) => void };

export function MaskEditor({ picture, size: [width, height], mask, onMask }: Properties): JSX.Element {
  const say = words().try;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [brush, setBrush] = useState(Math.max(4, Math.round(Math.max(width, height) / 12)));
  const [erases, setErases] = useState(false);
  /** The stroke that is being painted; several movements may come before it is drawn. */
  const latest = useRef<Stroke | null>(null);
  const [stroke, setStroke] = useState<Stroke | null>(null);
  const steps = stroke === null ? mask.done : [...mask.done, stroke];
  const put = (next: Stroke | null): void => setStroke((latest.current = next));
  useLayoutEffect(() => {
    const surface = canvas.current?.getContext("2d");
    if (surface) paint(surface, steps);
  }, [steps]);
  const spotOf = (event: PointerEvent & { currentTarget: HTMLCanvasElement }): Spot => {
    const box = event.currentTarget.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  const begin = (event: PointerEvent & { currentTarget: HTMLCanvasElement }): void => {
    event.currentTarget.setPointerCapture(event.pointerId);
    put({ spots: [spotOf(event)], size: brush, erases });
  };
  const move = (event: PointerEvent & { currentTarget: HTMLCanvasElement }): void => {
    const last = latest.current;
    if (last !== null) put({ ...last, spots: [...last.spots, spotOf(event)] });
  };
  const end = (): void => {
    if (latest.current !== null) onMask(after(mask, latest.current));
    put(null);
  };
  return (
    <div class="stack tight">
      <div class="row">
        <button type="button" aria-pressed={!erases} onClick={() => setErases(false)}>{say.brush}</button>
        <button type="button" aria-pressed={erases} onClick={() => setErases(true)}>{say.erase}</button>
        <button type="button" disabled={mask.done.length === 0} onClick={() => onMask(undo(mask))}>{say.undo}</button>
        <button type="button" disabled={mask.undone.length === 0} onClick={() => onMask(redo(mask))}>{say.redo}</button>
        <button type="button" onClick={() => onMask(after(mask, "invert"))}>{say.invert}</button>
        <label class="row">
          {say.brushSize}
          <input
            class="short"
            type="range"
            min={2}
            max={Math.max(width, height)}
            value={brush}
            onInput={(event) => setBrush(event.currentTarget.valueAsNumber)}
          />
        </label>
      </div>
      <div class="sheet narrow">
        <img src={picture} alt={say.picture} />
        <canvas
          ref={canvas}
          width={width}
          height={height}
          role="img"
          aria-label={say.mask}
          onPointerDown={begin}
          onPointerMove={move}
          onPointerUp={end}
          onPointerCancel={() => put(null)}
        />
      </div>
    </div>
  );
}
