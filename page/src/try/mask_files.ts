/** Masks on their surfaces, and as files: white on black, as large as their pictures. */
import { paint, type Loaded, type Mask, type Spot, type Surface } from "./mask";

type Target = Surface & { filter: string };

function surfaceOf([width, height]: Spot): OffscreenCanvasRenderingContext2D {
  const surface = new OffscreenCanvas(width, height).getContext("2d");
  if (surface === null) throw new Error("canvas");
  return surface;
}

/** With its soft edges. */
export function show(target: Target, { done, feather }: Pick<Mask, "done" | "feather">): void {
  if (feather === 0) {
    paint(target, done);
    return;
  }
  const { width, height } = target.canvas;
  const hard = surfaceOf([width, height]);
  paint(hard as unknown as Surface, done);
  target.globalCompositeOperation = "copy";
  target.filter = `blur(${feather}px)`;
  target.drawImage(hard.canvas, 0, 0);
  target.filter = "none";
}

export async function fileOf(mask: Mask, size: Spot): Promise<Blob> {
  const [white, whole] = [surfaceOf(size), surfaceOf(size)];
  show(white as unknown as Target, mask);
  whole.fillStyle = "black";
  whole.fillRect(0, 0, ...size);
  whole.drawImage(white.canvas, 0, 0);
  return whole.canvas.convertToBlob({ type: "image/png" });
}

/** What is bright in a picture, stretched over the one that it is for. */
export async function loadedFrom(file: File, size: Spot): Promise<Loaded> {
  const bitmap = await createImageBitmap(file);
  const surface = surfaceOf(size);
  surface.drawImage(bitmap, 0, 0, ...size);
  bitmap.close();
  const pixels = surface.getImageData(0, 0, ...size);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    const [red = 0, green = 0, blue = 0, alpha = 0] = data.subarray(at, at + 4);
    data.set([255, 255, 255, ((0.299 * red + 0.587 * green + 0.114 * blue) * alpha) / 255], at);
  }
  surface.putImageData(pixels, 0, 0);
  return { loaded: surface.canvas };
}
