// Made by page/shapes.py of the server's own types; `make page` writes it again.

export type CachedRow = {
  readonly model_name: string;
  readonly model_type: string | null;
  readonly model_hub: string;
  readonly model_version: string | null;
  readonly path: string;
  readonly real_path: string;
  readonly size_bytes: number;
  readonly complete: boolean;
  readonly actor_ip_address: string;
  readonly used_by: readonly (string)[];
};

export type CardRow = {
  readonly number: number;
  readonly name: string;
  readonly uuid: string;
  readonly total: number | null;
  readonly used: number | null;
  readonly claimed: number | null;
  readonly foreign: number;
  readonly foreign_by: string;
  readonly load: number | null;
  readonly processes: readonly (CardUserRow)[];
};

export type CardUserRow = {
  readonly pid: number | null;
  readonly name: string;
  readonly bytes: number | null;
  readonly is_ours: boolean;
  readonly model: string | null;
  readonly replica: number | null;
};

export type CatalogueRow = {
  readonly name: string;
  readonly type: string;
  readonly abilities: readonly (string)[];
  readonly description: string;
  readonly languages: readonly (string)[];
  readonly max_tokens: number | null;
  readonly weight_bytes: number | null;
  readonly licence: string | null;
  readonly needs: string | null;
  readonly builtin: boolean;
};

export type ChangeRow = {
  readonly uid: string;
  readonly change: string;
  readonly before: Readonly<Record<string, unknown>> | null;
  readonly after: Readonly<Record<string, unknown>> | null;
  readonly fields: readonly (string)[];
};

export type Changes = {
  readonly changes: readonly (ChangeRow)[];
};

export type CreatedKey = {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly (string)[];
  readonly models: readonly (string)[] | null;
  readonly created: number;
  readonly key: string;
};

export type EventRow = {
  readonly event_type: string;
  readonly event_ts: number;
  readonly event_content: string;
};

export type FitBody = {
  readonly fits: boolean;
  readonly reason: string;
  readonly nodes: readonly (string)[];
  readonly gives_way?: readonly (string)[];
  readonly claim_bytes: number;
  readonly card_bytes: number;
  readonly room_bytes: number | null;
  readonly measured?: Readonly<Record<string, unknown>>;
  readonly plan?: Plan;
  readonly ladder?: readonly (Rung)[];
};

export type JobRow = {
  readonly object: string;
  readonly id: string;
  readonly model: string;
  readonly created_at: number;
  readonly status?: "queued" | "in_progress" | "completed" | "failed" | "cancelled";
  readonly progress?: number;
  readonly stage?: string;
  readonly step?: number;
  readonly steps?: number;
  readonly eta_s?: number | null;
  readonly error?: Readonly<Record<string, unknown>> | null;
  readonly expires_at?: number | null;
};

export type KeyRow = {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly (string)[];
  readonly models: readonly (string)[] | null;
  readonly created: number;
};

export type LaunchOptions = {
  readonly type: string;
  readonly name: string;
  readonly launch: Readonly<Record<string, unknown>>;
  readonly family: Readonly<Record<string, unknown>>;
  readonly defaults: Readonly<Record<string, unknown>>;
  readonly engines: readonly (string)[];
  readonly variants: readonly (VariantRow)[];
};

export type LiveCanary = {
  readonly new: LiveVersion;
  readonly old: LiveVersion;
  readonly why: string;
  readonly next: string;
};

export type LiveChange = {
  readonly whole: boolean;
  readonly models: readonly (LiveModel)[];
  readonly gone: readonly (string)[];
  readonly nodes: readonly (LiveNode)[] | null;
  readonly has_control: boolean;
  readonly server: string;
};

export type LiveEvents = {
  readonly events: readonly (PastEvent)[];
  readonly missed: boolean;
};

export type LiveLines = {
  readonly model: string;
  readonly whole: boolean;
  readonly lines: readonly (string)[];
  readonly replicas: readonly (number)[];
  readonly cursor: string;
};

export type LiveModel = {
  readonly uid: string;
  readonly type: string;
  readonly name: string;
  readonly abilities: readonly (string)[];
  readonly state: string;
  readonly reason: string;
  readonly error_code: string;
  readonly replica: number;
  readonly scale: LiveScale | null;
  readonly canary: LiveCanary | null;
  readonly ready: number;
  readonly restarts: number;
  readonly generation: number;
  readonly stage: string;
  readonly progress: number;
  readonly created: number;
  readonly version: number;
  readonly log_tail: readonly (string)[];
  readonly workers: readonly (LiveWorker)[];
};

export type LiveNode = {
  readonly id: string;
  readonly name: string;
  readonly ip: string;
  readonly state: string;
  readonly is_head: boolean;
  readonly version: string;
  readonly cpus: number;
  readonly memory_bytes: number;
  readonly memory_claimed: number;
  readonly gpus: number;
  readonly gpus_claimed: number;
  readonly card_bytes: number | null;
  readonly card_claimed: number;
  readonly cards: readonly (CardRow)[];
  readonly workers: number;
  readonly room_reason: string;
};

export type LivePace = {
  readonly model: string;
  readonly index: number;
  readonly generation: number;
  readonly waiting: number;
  readonly running: number;
  readonly batch: number;
  readonly requests: number;
  readonly errors: number;
  readonly tokens: number;
  readonly shared: number;
  readonly cache_hits: number;
  readonly cache_misses: number;
};

export type LivePaces = {
  readonly whole: boolean;
  readonly workers: Readonly<Record<string, LivePace>>;
  readonly gone: readonly (string)[];
};

export type LiveScale = {
  readonly min: number;
  readonly max: number;
  readonly target_queue_s: number;
  readonly why: string;
};

export type LiveVersion = {
  readonly generation: number;
  readonly percent: number;
  readonly requests: number;
  readonly failed: number;
  readonly median_s: number | null;
  readonly slowest_s: number | null;
};

export type LiveWorker = {
  readonly id: string;
  readonly index: number;
  readonly generation: number;
  readonly state: string;
  readonly node: string;
  readonly pid: number;
  readonly cards: readonly (number)[];
  readonly claim_bytes: number;
  readonly card_bytes: number;
  readonly stage: string;
  readonly progress: number;
  readonly done_bytes: number;
  readonly total_bytes: number;
  readonly files: readonly (Readonly<Record<string, unknown>>)[];
  readonly reason: string;
  readonly restarts: number;
  readonly created: number;
};

export type ModelSeries = {
  readonly model: string | null;
  readonly step_s: number;
  readonly begin: number;
  readonly series: Readonly<Record<string, readonly (number | null)[]>>;
  readonly ingress: string;
  readonly since: number;
};

export type PastEvent = {
  readonly event_type: string;
  readonly event_ts: number;
  readonly event_content: string;
  readonly id: number;
  readonly model_uid: string | null;
};

export type Plan = {
  readonly components: readonly (Readonly<Record<string, unknown>>)[];
  readonly activation_bytes: number;
  readonly fixed_bytes: number;
  readonly spare_bytes: number;
  readonly peak_bytes: number;
  readonly advice: string;
};

export type RequestProgressBody = {
  readonly progress: number;
  readonly state: string;
  readonly stage: string;
  readonly step: number;
  readonly steps: number;
  readonly eta: number | null;
};

export type RequestRow = {
  readonly id: string;
  readonly model: string;
  readonly type: string;
  readonly state: string;
  readonly stage: string;
  readonly step: number;
  readonly steps: number;
  readonly progress: number;
  readonly eta_s: number | null;
  readonly age_s: number;
  readonly previews: number;
  readonly key: string | null;
  readonly mine: boolean;
};

export type RequestRows = {
  readonly requests: readonly (RequestRow)[];
};

export type Rung = {
  readonly changes: Readonly<Record<string, unknown>>;
  readonly claim_bytes: number;
  readonly card_bytes: number;
  readonly fits: boolean;
};

export type VariantRow = {
  readonly hub: string;
  readonly format: string;
  readonly sizes: readonly (string)[];
  readonly quantizations: readonly (string)[];
};

export type WhoAmI = {
  readonly name: string | null;
  readonly scopes: readonly (string)[];
  readonly models: readonly (string)[] | null;
};
