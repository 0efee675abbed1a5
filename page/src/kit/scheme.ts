/** Light or dark: as the system says, or as its reader chose. */
import { computed, signal } from "@preact/signals";

export type Scheme = "system" | "light" | "dark";
const KEPT = "scheme";
export const scheme = signal<Scheme>("system");

const system = matchMedia("(prefers-color-scheme: dark)");
const isSystemDark = signal(system.matches);
system.addEventListener("change", () => (isSystemDark.value = system.matches));
/** What is drawn by script has to know it. */
export const isDark = computed(() => (scheme.value === "system" ? isSystemDark.value : scheme.value === "dark"));

function show(chosen: Scheme): void {
  scheme.value = chosen;
  if (chosen === "system") delete document.documentElement.dataset.scheme;
  else document.documentElement.dataset.scheme = chosen;
}

export function chooseScheme(chosen: Scheme): void {
  localStorage.setItem(KEPT, chosen);
  show(chosen);
}

export function followScheme(): void {
  const kept = localStorage.getItem(KEPT);
  show(kept === "light" || kept === "dark" ? kept : "system");
}
