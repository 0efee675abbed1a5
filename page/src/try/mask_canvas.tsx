/** The surface over a picture that a mask is painted on, with a pointer or with keys. */
import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { words } from "../words";
import { after, moved, strokeOf, type Mask, type Spot, type Stroke, type Tool } from "./mask";
import { show } from "./mask_files";

type Properties = { size: Spot; mask: Mask; tool: Tool; brush: number; onMask: (mask: Mask) => void };
type OnCanvas<E> = E & { currentTarget: HTMLCanvasElement };

/** The stroke that is being painted; several movements may come before it is drawn. */
function useStroke({ mask, onMask }: Properties): { stroke: Stroke | null; begin: (stroke: Stroke) => void; add: (spot: Spot) => void; end: () => void; drop: () => void } {
  const latest = useRef<Stroke | null>(null);
  const [stroke, setStroke] = useState<Stroke | null>(null);
  const put = (next: Stroke | null): void => setStroke((latest.current = next));
  return {
    stroke,
    begin: put,
    add: (spot) => latest.current && put({ ...latest.current, spots: [...latest.current.spots, spot] }),
    end: () => {
      if (latest.current !== null) onMask(after(mask, latest.current));
      put(null);
    },
    drop: () => put(null),
  };
}

export function MaskCanvas(properties: Properties): JSX.Element {
  const say = words().try;
  const { size, mask, tool, brush } = properties;
  const canvas = useRef<HTMLCanvasElement>(null);
  const painting = useStroke(properties);
  const { stroke } = painting;
  const [cursor, setCursor] = useState<Spot>([size[0] / 2, size[1] / 2]);
  const done = stroke === null ? mask.done : [...mask.done, stroke];
  useLayoutEffect(() => {
    const surface = canvas.current?.getContext("2d");
    if (surface) show(surface, { done, feather: mask.feather });
  }, [done, mask.feather]);
  const spotOf = (event: OnCanvas<PointerEvent>): Spot => {
    const box = event.currentTarget.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * size[0], ((event.clientY - box.top) / box.height) * size[1]];
  };
  const press = (event: KeyboardEvent): void => {
    const spot = moved(cursor, event.key, event.shiftKey ? brush * 2 : Math.max(1, brush / 2), size);
    if (spot !== null) {
      setCursor(spot);
      painting.add(spot);
    } else if (event.key === " " && !event.repeat) painting.begin(strokeOf(tool, cursor, brush));
    else if (event.key === "Escape") painting.drop();
    if (spot !== null || event.key === " ") event.preventDefault();
  };
  return (
    <>
      <canvas
        ref={canvas}
        width={size[0]}
        height={size[1]}
        tabIndex={0}
        role="application"
        aria-label={say.mask}
        aria-describedby="mask-help"
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          painting.begin(strokeOf(tool, spotOf(event), brush));
        }}
        onPointerMove={(event) => painting.add(spotOf(event))}
        onPointerUp={painting.end}
        onPointerCancel={painting.drop}
        onKeyDown={press}
        onKeyUp={(event) => event.key === " " && painting.end()}
        onBlur={painting.drop}
      />
      <Cursor at={cursor} size={size} width={brush} />
    </>
  );
}

/** Seen while the surface has the keyboard. */
function Cursor({ at: [x, y], size: [width, height], width: brush }: { at: Spot; size: Spot; width: number }): JSX.Element {
  return (
    <svg class="brush-cursor" viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
      <circle cx={x} cy={y} r={brush / 2} />
    </svg>
  );
}
