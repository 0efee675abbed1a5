/** Another model of the same kind, whose answer is shown beside. */
import type { JSX } from "preact";
import { models } from "../server/live";
import type { LiveModel } from "../server/shapes";
import { words } from "../words";

type Properties = { model: LiveModel; ability: string; chosen: string; onChoose: (uid: string) => void };

export function Beside({ model, ability, chosen, onChoose }: Properties): JSX.Element | null {
  const others = models.value.filter((other) => other.uid !== model.uid && other.abilities.includes(ability));
  if (others.length === 0) return null;
  return (
    <label class="field narrow">
      <span>{words().try.beside}</span>
      <select value={chosen} onChange={(event) => onChoose(event.currentTarget.value)}>
        <option value="">{words().try.alone}</option>
        {others.map(({ uid }) => (
          <option key={uid} value={uid}>
            {uid}
          </option>
        ))}
      </select>
    </label>
  );
}
