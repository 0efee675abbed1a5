// Shows the OpenAPI document of this server. Everything is put into the page as text, nothing as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
let key = "";
let spec = { paths: {} };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

const headers = (more = {}) => (key ? { ...more, authorization: `Bearer ${key}` } : more);

// ------------------------------------------------------------------------------------------------ schemas

const named = (reference) => spec.components.schemas[reference.split("/").pop()] ?? {};
const resolved = (schema) => (schema.$ref ? { ...named(schema.$ref), ...schema } : schema);

function typeOf(schema, depth = 0) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map((choice) => typeOf(choice, depth + 1)).join(" | ");
  if (schema.prefixItems) return `[${schema.prefixItems.map((item) => typeOf(item, depth + 1)).join(", ")}]`;
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {}, depth + 1)}`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object")
    return `object of ${typeOf(schema.additionalProperties, depth + 1)}`;
  return schema.type ?? "anything";
}

// The objects that a schema holds, behind lists and choices.
function objectsIn(schema) {
  const inner = resolved(schema);
  if (inner.properties) return [inner];
  const parts = [...(inner.anyOf ?? inner.oneOf ?? []), inner.items, inner.additionalProperties];
  return parts.filter((part) => part && typeof part === "object").flatMap(objectsIn);
}

function limitsOf(schema) {
  const words = { minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below",
    minLength: "characters from", maxLength: "characters up to", minItems: "items from", maxItems: "items up to" };
  const limits = Object.keys(words).filter((name) => name in schema).map((name) => `${words[name]} ${schema[name]}`);
  if (schema.default !== undefined && schema.default !== null) limits.push(`default ${JSON.stringify(schema.default)}`);
  return limits.join(", ");
}

function fieldsOf(object, above) {
  const rows = Object.entries(object.properties).map(([name, schema]) => {
    const isRequired = (object.required ?? []).includes(name);
    const note = [isRequired ? "required" : "", limitsOf(schema), schema.description ?? ""].filter(Boolean).join("; ");
    const line = [element("code", {}, name), " ", element("span", { class: "type" }, typeOf(schema)), " ",
      element("span", { class: "note" }, note)];
    const inner = objectsIn(schema).filter((found) => !above.includes(found.title));
    return element("li", {}, ...line, ...(above.length > 4 ? [] : inner.map((found) => fieldsOf(found, [...above, found.title]))));
  });
  return element("ul", { class: "fields" }, ...rows);
}

function shapeOf(schema) {
  const objects = objectsIn(schema);
  return element("div", {}, element("code", { class: "type" }, typeOf(schema)),
    ...objects.map((object) => fieldsOf(object, [object.title])));
}

// ------------------------------------------------------------------------------------------------ routes

function contentOf(title, content) {
  const parts = Object.entries(content ?? {}).map(([kind, { schema }]) =>
    element("div", {}, element("code", {}, kind), kind.includes("json") || kind.includes("form") ? shapeOf(schema) : ""));
  return parts.length ? element("section", {}, element("h3", {}, title), ...parts) : null;
}

function parametersOf(parameters) {
  if (!parameters.length) return null;
  const rows = parameters.map((parameter) => element("li", {}, element("code", {}, parameter.name), " ",
    element("span", { class: "type" }, typeOf(parameter.schema)), " ",
    element("span", { class: "note" }, [`in the ${parameter.in}`, parameter.required ? "required" : "",
      limitsOf(parameter.schema)].filter(Boolean).join("; "))));
  return element("section", {}, element("h3", {}, "Parameters"), element("ul", { class: "fields" }, ...rows));
}

// An answer longer than this is cut: the page would stand still.
const LONGEST = 20000;

function tryOut(method, path, operation) {
  const inputs = (operation.parameters ?? []).map((parameter) => [parameter, element("input", { name: parameter.name })]);
  const body = operation.requestBody ? element("textarea", { rows: "4", name: "body" }) : null;
  if (body) body.value = "{}";
  const answer = element("pre", { hidden: "" });
  const form = element("form", { class: "try" }, element("h3", {}, "Try it"),
    ...inputs.map(([parameter, input]) => element("label", {}, `${parameter.name} `, input)), body,
    element("button", {}, "Send"), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let address = path;
    const query = new URLSearchParams();
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(parameter.name, input.value);
    }
    const sent = { method: method.toUpperCase(), headers: headers(body ? { "content-type": "application/json" } : {}) };
    if (body) sent.body = body.value;
    answer.hidden = false;
    answer.textContent = "…";
    try {
      const response = await fetch(query.size ? `${address}?${query}` : address, sent);
      const text = await response.text();
      answer.textContent = `${response.status}\n${text.slice(0, LONGEST)}`;
    } catch (error) {
      answer.textContent = String(error);
    }
  });
  return form;
}

function routeOf(method, path, operation) {
  const route = element("details", { class: "route" }, element("summary", {},
    element("span", { class: "method" }, method.toUpperCase()), element("span", { class: "path" }, path),
    element("span", { class: "words" }, operation.summary ?? "")));
  // What is inside is made when it is opened: there are some hundred routes.
  route.addEventListener("toggle", () => {
    if (route.children.length > 1) return;
    const answers = Object.entries(operation.responses ?? {}).map(([status, response]) =>
      contentOf(`${response.description}${status === "default" ? "" : ` (${status})`}`, response.content));
    const parts = [element("p", {}, operation.description ?? ""), parametersOf(operation.parameters ?? []),
      contentOf("Body", operation.requestBody?.content), ...answers, tryOut(method, path, operation)];
    route.append(element("div", {}, ...parts.filter((part) => part !== null)));
  });
  route.dataset.words = `${method} ${path} ${operation.summary ?? ""}`.toLowerCase();
  return route;
}

function show() {
  byId("version").textContent = spec.info.version;
  const sections = new Map();
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "other";
      if (!sections.has(tag)) sections.set(tag, element("section", {}, element("h2", {}, tag)));
      sections.get(tag).append(routeOf(method, path, operation));
    }
  byId("routes").replaceChildren(...sections.values());
  byId("filter-label").hidden = false;
}

byId("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const route of document.querySelectorAll("details.route"))
    route.hidden = !words.every((word) => route.dataset.words.includes(word));
  for (const section of document.querySelectorAll("main > section"))
    section.hidden = !section.querySelector("details.route:not([hidden])");
});

// ------------------------------------------------------------------------------------------------ key

async function load() {
  const response = await fetch("/openapi.json", { headers: headers() });
  const told = await response.json();
  if (!response.ok) {
    byId("refusal").textContent = told.detail;
    byId("key-form").hidden = false;
    return;
  }
  spec = told;
  byId("key-form").hidden = true;
  show();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  load();
});

(async () => {
  // Ask this before the rest: the browser writes every refused request into its console.
  const { auth } = await (await fetch("/v1/cluster/auth")).json();
  if (auth) byId("key-form").hidden = false;
  else await load();
})();
