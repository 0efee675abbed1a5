/** Numbers as people read them, the same as in the commands. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(size: number): string {
  let unit = 0;
  let left = size;
  while (left >= 1024 && unit < UNITS.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${left} B` : `${left.toFixed(left < 10 ? 1 : 0)} ${UNITS[unit]}`;
}

/** Of as many, with the unit once where both have the same. */
export function ofTotal(part: number, total: number): string {
  const [own, whole] = [bytes(part), bytes(total)];
  const unit = whole.slice(whole.indexOf(" "));
  return own.endsWith(unit) ? `${own.slice(0, -unit.length)} / ${whole}` : `${own} / ${whole}`;
}

export const percent = (part: number): string => `${Math.round(100 * part)} %`;

/** The two largest units of a duration. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ] as const;
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}

/** A number of things a second, or at once: as exactly as it is small. */
export function perSecond(count: number): string {
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)}M`;
  if (count >= 1e4) return `${Math.round(count / 1000)}k`;
  if (count >= 1000) return `${(count / 1000).toFixed(1)}k`;
  return count >= 100 || Number.isInteger(count) ? String(Math.round(count)) : count.toFixed(count < 10 ? 1 : 0);
}

/** How long something took. */
export function time(seconds: number): string {
  if (seconds === 0) return "0";
  if (seconds < 0.01) return `${(1000 * seconds).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : duration(seconds);
}

const two = (value: number): string => String(value).padStart(2, "0");

/** Of an instant in milliseconds, by the clock of the browser. */
export function clock(at: number): string {
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function day(at: number): string {
  const date = new Date(at);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(at)}`;
}
