/** Vectors on a plane, by the two directions in which they differ most (PCA). Pure. */
import type { Vector } from "./similar";

/** From 0 to 1 in both directions. */
export type Place = readonly [number, number];
const TURNS = 200;

const dot = (a: Vector, b: Vector): number => a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0);
const scaled = (a: Vector, by: number): number[] => a.map((value) => value * by);

/** Their distances are all in the products of each with each, of which there are few: vectors are many numbers long. */
function products(vectors: readonly Vector[]): number[][] {
  const count = vectors.length;
  const size = vectors[0]?.length ?? 0;
  const middle = Array.from({ length: size }, (_, at) => vectors.reduce((sum, vector) => sum + (vector[at] ?? 0), 0) / count);
  const centred = vectors.map((vector) => vector.map((value, at) => value - (middle[at] ?? 0)));
  return centred.map((a) => centred.map((b) => dot(a, b)));
}

/** The largest direction, found by turning towards it again and again. */
function largest(matrix: readonly Vector[]): { direction: number[]; strength: number } {
  let direction = matrix.map((_, at) => Math.cos(1 + at));
  let strength = 0;
  for (let turn = 0; turn < TURNS; turn += 1) {
    const turned = matrix.map((row) => dot(row, direction));
    strength = Math.sqrt(dot(turned, turned));
    if (strength < 1e-12) return { direction: scaled(direction, 0), strength: 0 };
    direction = scaled(turned, 1 / strength);
  }
  return { direction, strength };
}

const without = (matrix: readonly Vector[], { direction, strength }: { direction: Vector; strength: number }): number[][] =>
  matrix.map((row, at) => row.map((value, other) => value - strength * (direction[at] ?? 0) * (direction[other] ?? 0)));

/** Both directions on one scale: what is far apart on the plane is far apart. */
export function flat(vectors: readonly Vector[]): Place[] {
  const matrix = products(vectors);
  const first = largest(matrix);
  const second = largest(without(matrix, first));
  const across = scaled(first.direction, Math.sqrt(first.strength));
  const along = scaled(second.direction, Math.sqrt(second.strength));
  const reach = Math.max(...across.map(Math.abs), ...along.map(Math.abs), 1e-9);
  return across.map((x, at) => [0.5 + x / (2 * reach), 0.5 + (along[at] ?? 0) / (2 * reach)]);
}
