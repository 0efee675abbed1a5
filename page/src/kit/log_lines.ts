/** The lines of a log as they come. Pure. */
import type { LiveLines } from "../server/shapes";

/** What workers wrote, each line with the replica that did. */
export type LogLines = { readonly lines: readonly string[]; readonly replicas: readonly number[] };
export const NO_LINES: LogLines = { lines: [], replicas: [] };
/** As many as the server keeps. */
const MOST = 10_000;

export function withNews(last: LogLines | null, { whole, lines, replicas }: LiveLines): LogLines {
  if (whole || last === null) return { lines, replicas };
  return { lines: [...last.lines, ...lines].slice(-MOST), replicas: [...last.replicas, ...replicas].slice(-MOST) };
}

export const replicasIn = ({ replicas }: LogLines): number[] => [...new Set(replicas)].sort((a, b) => a - b);

/** The lines with that text, of that replica if one is named. */
export function found({ lines, replicas }: LogLines, text: string, replica: string): string[] {
  const wanted = text.toLowerCase();
  return lines.filter((line, place) => (replica === "" || String(replicas[place]) === replica) && line.toLowerCase().includes(wanted));
}
