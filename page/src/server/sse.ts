/** Events of an answer that comes piece by piece. */
import { send, type Options } from "./call";

/** The data of each whole event, and what is left of the last. Pure. */
export function eventsIn(text: string): { events: string[]; rest: string } {
  const parts = text.replaceAll("\r\n", "\n").split("\n\n");
  const rest = parts.pop() ?? "";
  const events = parts.map((part) =>
    part
      .split("\n")
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart())
      .join("\n"),
  );
  return { events: events.filter((data) => data !== ""), rest };
}

/** Each event as JSON, until the answer ends. Leaving the loop, or aborting, ends the request. */
export async function* stream<T>(path: string, options: Options): AsyncGenerator<T> {
  const answer = await send("POST", path, options);
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (reader === undefined) return;
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const heard = eventsIn(rest + value);
      rest = heard.rest;
      for (const data of heard.events) {
        if (data === "[DONE]") return;
        yield JSON.parse(data) as T;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
