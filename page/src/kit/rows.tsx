/** The rows of a long table of which only those within sight are in the document. */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ROW_PX, rowsOf, type Sight } from "./lines";

type Properties<T> = { rows: readonly T[]; children: (row: T) => JSX.Element };

export function Rows<T>({ rows, children }: Properties<T>): JSX.Element {
  const body = useRef<HTMLTableSectionElement>(null);
  const [sight, setSight] = useState<Sight>(() => rowsOf(0, innerHeight, rows.length));
  useEffect(() => {
    const look = (): void => {
      const top = -(body.current?.getBoundingClientRect().top ?? 0);
      const next = rowsOf(top, innerHeight, rows.length);
      setSight((last) => (last.first === next.first && last.last === next.last ? last : next));
    };
    look();
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", look);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", look);
    };
  }, [rows.length]);
  const last = Math.min(sight.last, rows.length);
  return (
    <tbody ref={body}>
      <Space rows={sight.first} />
      {rows.slice(sight.first, last).map(children)}
      <Space rows={rows.length - last} />
    </tbody>
  );
}

function Space({ rows }: { rows: number }): JSX.Element | null {
  return rows > 0 ? <tr aria-hidden="true" style={{ height: `${ROW_PX * rows}px` }} /> : null;
}
