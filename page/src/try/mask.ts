/** A mask as it was painted, step by step: in pixels of its picture, so that it stays where it is in any window. Pure. */

export type Spot = readonly [number, number];
/** `fills`: what is within, as with a lasso, and not the line itself. */
export type Stroke = { readonly spots: readonly Spot[]; readonly size: number; readonly erases: boolean; readonly fills?: boolean };
/** A mask from a file takes the place of what was painted before. */
export type Loaded = { readonly loaded: CanvasImageSource };
export type Step = Stroke | Loaded | "invert";
/** `feather`: how many pixels its edges are soft. */
export type Mask = { readonly done: readonly Step[]; readonly undone: readonly Step[]; readonly feather: number };
export type Tool = "brush" | "erase" | "lasso";

export const BLANK: Mask = { done: [], undone: [], feather: 0 };

export const after = (mask: Mask, step: Step): Mask => ({ ...mask, done: [...mask.done, step], undone: [] });

export function undo(mask: Mask): Mask {
  const last = mask.done.at(-1);
  return last === undefined ? mask : { ...mask, done: mask.done.slice(0, -1), undone: [...mask.undone, last] };
}

export function redo(mask: Mask): Mask {
  const last = mask.undone.at(-1);
  return last === undefined ? mask : { ...mask, done: [...mask.done, last], undone: mask.undone.slice(0, -1) };
}

export const strokeOf = (tool: Tool, spot: Spot, size: number): Stroke => ({
  spots: [spot],
  size,
  erases: tool === "erase",
  ...(tool === "lasso" ? { fills: true } : {}),
});

const ARROWS: Readonly<Record<string, Spot>> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Where an arrow key moves the brush, within the picture; null for any other key. */
export function moved([x, y]: Spot, key: string, by: number, [width, height]: Spot): Spot | null {
  const arrow = Object.hasOwn(ARROWS, key) ? ARROWS[key] : undefined;
  if (arrow === undefined) return null;
  const within = (value: number, most: number): number => Math.max(0, Math.min(most, value));
  return [within(x + by * arrow[0], width), within(y + by * arrow[1], height)];
}

/** The part of a drawing surface that painting takes. */
export type Surface = Pick<
  CanvasRenderingContext2D,
  | "canvas" | "clearRect" | "fillRect" | "beginPath" | "moveTo" | "lineTo" | "stroke" | "fill" | "drawImage"
  | "fillStyle" | "strokeStyle" | "lineWidth" | "lineCap" | "lineJoin"
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
    } else if ("loaded" in step) {
      surface.globalCompositeOperation = "copy";
      surface.drawImage(step.loaded, 0, 0, width, height);
    } else {
      draw(surface, step);
    }
  }
}

function draw(surface: Surface, step: Stroke): void {
  surface.globalCompositeOperation = step.erases ? "destination-out" : "source-over";
  surface.lineWidth = step.size;
  surface.beginPath();
  const [first = [0, 0] as const, ...others] = step.spots;
  surface.moveTo(...first);
  // A line of no length is not drawn at all.
  if (others.length === 0) surface.lineTo(first[0] + 0.01, first[1]);
  for (const spot of others) surface.lineTo(...spot);
  if (step.fills) surface.fill();
  else surface.stroke();
}
