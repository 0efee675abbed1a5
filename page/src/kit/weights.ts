/** What lies on the disks of the nodes, the same weights of several nodes in one row. Pure. */
import type { CachedRow } from "../server/shapes";
import { encoded } from "../server/call";

export type Stored = {
  readonly id: string;
  readonly name: string;
  readonly type: string;
  readonly hub: string;
  readonly version: string;
  readonly size: number;
  readonly nodes: readonly string[];
  /** Somewhere a part of them is missing: they are being downloaded, or a download ended early. */
  readonly isPartial: boolean;
  readonly usedBy: readonly string[];
};

const idOf = (row: CachedRow): string => JSON.stringify([row.model_hub, row.model_name, row.model_version]);

/** The largest first: whoever looks here mostly wants room. */
export function storedOf(rows: readonly CachedRow[]): Stored[] {
  const groups = new Map<string, CachedRow[]>();
  for (const row of rows) groups.set(idOf(row), [...(groups.get(idOf(row)) ?? []), row]);
  return [...groups].flatMap(([id, same]) => mergedOf(id, same)).sort((a, b) => b.size - a.size || a.name.localeCompare(b.name));
}

function mergedOf(id: string, rows: readonly CachedRow[]): Stored[] {
  const [first] = rows;
  if (first === undefined) return [];
  return [
    {
      id,
      name: first.model_name,
      type: first.model_type ?? "",
      hub: first.model_hub,
      version: first.model_version ?? "",
      size: Math.max(...rows.map((row) => row.size_bytes)),
      nodes: [...new Set(rows.map((row) => row.actor_ip_address))],
      isPartial: rows.some((row) => !row.complete),
      usedBy: [...new Set(rows.flatMap((row) => row.used_by))],
    },
  ];
}

export const totalOf = (rows: readonly CachedRow[]): number => rows.reduce((sum, row) => sum + row.size_bytes, 0);

/** By its version, since a name may stand for several; what has none goes by its name. */
export const deletionOf = ({ version, name }: Stored): string =>
  `/v1/cache/models?model_version=${encoded(version || name)}`;
