/** How alike vectors are. Pure. */

export type Vector = readonly number[];

const dot = (a: Vector, b: Vector): number => a.reduce((sum, value, place) => sum + value * (b[place] ?? 0), 0);

/** Cosines of each with each. */
export function similarities(vectors: readonly Vector[]): number[][] {
  const lengths = vectors.map((vector) => Math.sqrt(dot(vector, vector)) || 1);
  return vectors.map((a, row) =>
    vectors.map((b, column) => dot(a, b) / ((lengths[row] ?? 1) * (lengths[column] ?? 1))),
  );
}

/** The two different ones that are most alike; null where there are not two. */
export function nearest(matrix: readonly (readonly number[])[]): [number, number] | null {
  let best: [number, number] | null = null;
  let most = -Infinity;
  matrix.forEach((cells, row) =>
    cells.forEach((value, column) => {
      if (column > row && value > most) {
        most = value;
        best = [row, column];
      }
    }),
  );
  return best;
}
