/** The code of a request, with the values on the screen and no key within. Pure. */

export type Request = { readonly origin: string; readonly path: string; readonly body: Readonly<Record<string, unknown>> };

const quotedForShell = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

export function curlOf({ origin, path, body }: Request): string {
  const { image, ...fields } = body;
  const lines = [`curl ${quotedForShell(origin + path)}`, `-H "Authorization: Bearer $CLUSTER_API_KEY"`];
  if (image !== undefined) {
    const form = Object.entries(fields).map(([name, value]) => `-F ${quotedForShell(`${name}=${String(value)}`)}`);
    return [...lines, ...form, `-F ${quotedForShell(`image=@${String(image)}`)}`].join(" \\\n  ");
  }
  return [...lines, `-H 'Content-Type: application/json'`, `-d ${quotedForShell(JSON.stringify(body))}`].join(" \\\n  ");
}

/** A value as Python writes it. */
export function pythonOf(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonOf).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([name, each]) => `${JSON.stringify(name)}: ${pythonOf(each)}`)
      .join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** Paths that OpenAI's client has a method for, and what people look at in the answer. */
const OPENAI: Readonly<Record<string, readonly [string, string]>> = {
  "/v1/embeddings": ["embeddings.create", "answer.data[0].embedding"],
  "/v1/chat/completions": ["chat.completions.create", "answer.choices[0].message.content"],
  "/v1/images/generations": ["images.generate", "answer.data[0].b64_json"],
};
/** Arguments that OpenAI's client knows; the others go along with them. */
const KNOWN = ["model", "input", "messages", "prompt", "size"];

export function openaiOf({ origin, path, body }: Request): string | null {
  const method = Object.hasOwn(OPENAI, path) ? OPENAI[path] : undefined;
  if (method === undefined) return null;
  const plain = Object.entries(body).filter(([name]) => !["stream", "stream_options", "partial_images"].includes(name));
  const known = plain.filter(([name]) => KNOWN.includes(name)).map(([name, value]) => `    ${name}=${pythonOf(value)},`);
  const others = Object.fromEntries(plain.filter(([name]) => !KNOWN.includes(name)));
  const extra = Object.keys(others).length > 0 ? [`    extra_body=${pythonOf(others)},`] : [];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=os.environ.get("CLUSTER_API_KEY", "none"))`,
    `answer = client.${method[0]}(`,
    ...known,
    ...extra,
    ")",
    `print(${method[1]})`,
  ].join("\n");
}

/** What the handles of our own client and of Xinference's call it; both have it under the same name. */
const METHODS: Readonly<Record<string, string>> = {
  "/v1/embeddings": "create_embedding",
  "/v1/rerank": "rerank",
  "/v1/chat/completions": "chat",
  "/v1/images/generations": "text_to_image",
  "/v1/images/ocr": "ocr",
  "/classify": "classify",
};
/** Those of Xinference's client that take the same arguments by name, and the one for what they do not name. */
const XINFERENCE: Readonly<Record<string, readonly string[]>> = {
  "/v1/embeddings": ["input"],
  "/v1/rerank": ["query", "documents"],
  "/v1/chat/completions": ["messages"],
  "/v1/images/generations": ["prompt", "size", "num_inference_steps", "seed", "negative_prompt"],
};
const STREAMING = ["stream", "stream_options", "partial_images", "request_id"];

function handleCall({ origin, path, body }: Request, client: readonly string[], fields: readonly [string, unknown][]): string {
  return [
    "import os",
    "",
    client[0],
    "",
    `client = ${client[1]}(${JSON.stringify(origin)}, api_key=os.environ.get("CLUSTER_API_KEY"))`,
    `model = client.get_model(${JSON.stringify(body.model)})`,
    `answer = model.${METHODS[path]}(`,
    ...fields.map(([name, value]) => `    ${name}=${pythonOf(value)},`),
    ")",
    "print(answer)",
  ].join("\n");
}

const plainFields = (body: Request["body"]): [string, unknown][] =>
  Object.entries(body).filter(([name]) => name !== "model" && !STREAMING.includes(name));

export function clusterOf(request: Request): string | null {
  if (!Object.hasOwn(METHODS, request.path)) return null;
  return handleCall(request, ["from cluster import Client", "Client"], plainFields(request.body));
}

export function xinferenceOf(request: Request): string | null {
  const known = Object.hasOwn(XINFERENCE, request.path) ? XINFERENCE[request.path] : undefined;
  if (known === undefined) return null;
  const fields = plainFields(request.body).filter(([name]) => known.includes(name));
  return handleCall(request, ["from xinference_client import RESTfulClient", "RESTfulClient"], fields);
}
