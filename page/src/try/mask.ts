/** A mask as it was painted, step by step: in pixels of its picture, so that it stays where it is in any window. Pure. */

export type Spot = readonly [number, number];
export type Stroke = { readonly spots: readonly Spot[]; readonly size: number; readonly erases: boolean };
export type Step = Stroke | "invert";
export type Mask = { readonly done: readonly Step[]; readonly undone: readonly Step[] };

export const BLANK: Mask = { done: [], undone: [] };

export const after = (mask: Mask, step: Step): Mask => ({ done: [...mask.done, step], undone: [] });

export function undo({ done, undone }: Mask): Mask {
  const last = done.at(-1);
  return last === undefined ? { done, undone } : { done: done.slice(0, -1), undone: [...undone, last] };
}

export function redo({ done, undone }: Mask): Mask {
  const last = undone.at(-1);
  return last === undefined ? { done, undone } : { done: [...done, last], undone: undone.slice(0, -1) };
}

/** The part of a drawing surface that painting takes. */
export type Surface = Pick<
  CanvasRenderingContext2D,
  "canvas" | "clearRect" | "fillRect" | "beginPath" | "moveTo" | "lineTo" | "stroke" | "fillStyle" | "strokeStyle" | "lineWidth" | "lineCap" | "lineJoin"
> & { globalCompositeOperation: string };

/** White where it is painted, and nothing elsewhere. */
export function paint(surface: Surface, steps: readonly Step[]): void {
  const { width, height } = surface.canvas;
  surface.globalCompositeOperation = "source-over";
  surface.clearRect(0, 0, width, height);
  surface.fillStyle = surface.strokeStyle = "white";
  surface.lineCap = surface.lineJoin = "round";
  for (const step of steps) {
    if (step === "invert") {
      surface.globalCompositeOperation = "xor";
      surface.fillRect(0, 0, width, height);
      continue;
    }
    surface.globalCompositeOperation = step.erases ? "destination-out" : "source-over";
    surface.lineWidth = step.size;
    surface.beginPath();
    const [first = [0, 0] as const, ...others] = step.spots;
    surface.moveTo(...first);
    // A line of no length is not drawn at all.
    if (others.length === 0) surface.lineTo(first[0] + 0.01, first[1]);
    for (const spot of others) surface.lineTo(...spot);
    surface.stroke();
  }
}
