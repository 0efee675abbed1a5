/** Which of many lines are within sight: only those are in the document. Pure. */

/** As tall as the style says. */
export const LINE_PX = 20;
/** Lines beyond both edges, for those who scroll. */
const MORE = 30;

export type Sight = { readonly first: number; readonly last: number };

export function sightOf(top: number, height: number, count: number): Sight {
  const first = Math.floor(top / LINE_PX) - MORE;
  const last = Math.ceil((top + height) / LINE_PX) + MORE;
  return { first: Math.max(0, Math.min(first, count)), last: Math.min(count, Math.max(0, last)) };
}
