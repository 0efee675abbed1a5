/** The sentences of the page in the language of its reader. */
import { signal } from "@preact/signals";
import { en } from "./en";
import { zh } from "./zh";

export type Words = typeof en;
export type Language = "en" | "zh";
const LANGUAGES: Record<Language, Words> = { en, zh };
const KEPT = "language";

function preferred(): Language {
  const kept = localStorage.getItem(KEPT);
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const language = signal<Language>("en");

export function choose(chosen: Language): void {
  language.value = chosen;
  localStorage.setItem(KEPT, chosen);
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
}

export function followLanguage(): void {
  language.value = preferred();
  document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
}

/** Read while something is drawn, so that it is drawn again in another language. */
export const words = (): Words => LANGUAGES[language.value];
