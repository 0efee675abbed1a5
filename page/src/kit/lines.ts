/** Which of many lines are within sight: only those are in the document. Pure. */

/** As tall as the style says; of the rows of tables, as tall as most of them are. */
export const LINE_PX = 20;
export const ROW_PX = 35;
/** Up to so many rows are all in the document, where a browser finds them. */
export const ALL = 200;
/** Rows come and go so many at once. */
const STEP = 10;
/** Lines beyond both edges, for those who scroll. */
const MORE = 30;

export type Sight = { readonly first: number; readonly last: number };

export function sightOf(top: number, height: number, count: number, px: number = LINE_PX): Sight {
  const first = Math.floor(top / px) - MORE;
  const last = Math.ceil((top + height) / px) + MORE;
  return { first: Math.max(0, Math.min(first, count)), last: Math.min(count, Math.max(0, last)) };
}

/** Of a table in a window that is scrolled: `top` is how far its first row is above the window. */
export function rowsOf(top: number, height: number, count: number): Sight {
  if (count <= ALL) return { first: 0, last: count };
  const { first, last } = sightOf(top, height, count, ROW_PX);
  return { first: Math.floor(first / STEP) * STEP, last: Math.min(count, Math.ceil(last / STEP) * STEP) };
}
