/** What is known of the cluster, and what one message of the stream makes of it. */
import type { LiveChange, LiveModel, LiveNode } from "./shapes";

export type Fleet = {
  readonly models: ReadonlyMap<string, LiveModel>;
  readonly nodes: readonly LiveNode[];
  readonly hasControl: boolean;
  readonly server: string;
};

/** What a gateway says of the clusters behind it; the page shows one of them. */
export type Cells = { readonly cell: string; readonly cells: readonly string[]; readonly left_out: readonly string[] };

export const NOTHING: Fleet = { models: new Map(), nodes: [], hasControl: true, server: "" };

/** The whole state after (re)connecting, then only what is different. */
export function amended(fleet: Fleet, change: LiveChange): Fleet {
  const models = new Map(change.whole ? [] : fleet.models);
  for (const model of change.models) models.set(model.uid, model);
  for (const uid of change.gone) models.delete(uid);
  return { models, nodes: change.nodes ?? fleet.nodes, hasControl: change.has_control, server: change.server };
}
