// The best of all ways to pair two sets of points: most pairs first, then the least sum of squared
// distances.

/**
 * @typedef {{n: number, z: Float64Array, x: Float64Array}} Points Only the first n entries count
 *   [px].
 */
/**
 * @typedef {{i: number, j: number, squared: number}} Pair Entries of the first and second set;
 *   squared distance [px^2].
 */

/**
 * Pair points that lie within reach of each other, each at most once.
 * @param {Points} first
 * @param {Points} second
 * @param {(squared: number) => boolean} isAllowed Whether a pair of this squared distance may be
 *   made [px^2].
 * @returns {Int32Array} For each first point its partner in the second set, or -1.
 */
export function bestPairs(first, second, isAllowed) {
  const partner = new Int32Array(first.n).fill(-1);
  /** @type {Pair[]} */
  const pairs = [];
  const rivalsOfFirst = new Uint16Array(first.n);
  const rivalsOfSecond = new Uint16Array(second.n);
  for (let i = 0; i < first.n; i++) {
    for (let j = 0; j < second.n; j++) {
      const dz = first.z[i] - second.z[j];
      const dx = first.x[i] - second.x[j];
      const squared = dz * dz + dx * dx;
      if (!isAllowed(squared)) continue;
      pairs.push({ i, j, squared });
      rivalsOfFirst[i]++;
      rivalsOfSecond[j]++;
    }
  }
  // Pairs without a rival need no search; most bubbles are such.
  /** @type {Pair[]} */
  const contested = [];
  for (const pair of pairs) {
    if (rivalsOfFirst[pair.i] === 1 && rivalsOfSecond[pair.j] === 1) partner[pair.i] = pair.j;
    else contested.push(pair);
  }
  if (contested.length) assignContested(contested, partner);
  return partner;
}

/**
 * Assign pairs that have rivals.
 * @param {Pair[]} pairs
 * @param {Int32Array} partner Takes the partners in.
 */
function assignContested(pairs, partner) {
  const rows = [...new Set(pairs.map(({ i }) => i))];
  const columns = [...new Set(pairs.map(({ j }) => j))];
  const rowOf = new Map(rows.map((i, row) => [i, row]));
  const columnOf = new Map(columns.map((j, column) => [j, column]));
  // A barred pair costs more than all allowed ones together: the number of pairs comes first.
  const barred = pairs.reduce((sum, { squared }) => sum + squared, 0) + 1;
  // The search wants no more rows than columns; columns without a point of their own stand for "no
  // partner".
  const nColumns = Math.max(rows.length, columns.length);
  const cost = rows.map(() => new Float64Array(nColumns).fill(barred));
  for (const { i, j, squared } of pairs)
    cost[Number(rowOf.get(i))][Number(columnOf.get(j))] = squared;
  const columnOfRow = leastAssignment(cost);
  rows.forEach((i, row) => {
    const column = columnOfRow[row];
    if (cost[row][column] < barred) partner[i] = columns[column];
  });
}

/**
 * Give each row a column of its own so that the sum of the costs is least.
 *
 * Rows come in one by one. Each looks for the cheapest chain of exchanges that ends in a free
 * column, by Dijkstra's search; prices of rows and columns keep all reduced costs at 0 or above
 * (Crouse, IEEE TAES 52 (2016) 1679).
 * @param {Float64Array[]} cost As many columns as rows, or more.
 * @returns {Int32Array} Column of each row.
 */
export function leastAssignment(cost) {
  const nRows = cost.length;
  const nColumns = nRows ? cost[0].length : 0;
  const rowPrice = new Float64Array(nRows);
  const columnPrice = new Float64Array(nColumns);
  const columnOfRow = new Int32Array(nRows).fill(-1);
  const rowOfColumn = new Int32Array(nColumns).fill(-1);
  const reached = new Float64Array(nColumns);
  const reachedFrom = new Int32Array(nColumns);
  const isDone = new Uint8Array(nColumns);
  for (let newRow = 0; newRow < nRows; newRow++) {
    reached.fill(Infinity);
    isDone.fill(0);
    let row = newRow;
    let way = 0;
    let nearest = -1;
    do {
      nearest = -1;
      for (let column = 0; column < nColumns; column++) {
        if (isDone[column]) continue;
        const through = way + cost[row][column] - rowPrice[row] - columnPrice[column];
        if (through < reached[column]) {
          reached[column] = through;
          reachedFrom[column] = row;
        }
        if (nearest < 0 || reached[column] < reached[nearest]) nearest = column;
      }
      way = reached[nearest];
      isDone[nearest] = 1;
      row = rowOfColumn[nearest];
    } while (row >= 0);
    rowPrice[newRow] += way;
    for (let column = 0; column < nColumns; column++) {
      if (!isDone[column] || column === nearest) continue;
      rowPrice[rowOfColumn[column]] += way - reached[column];
      columnPrice[column] -= way - reached[column];
    }
    // Exchange along the chain, from its free end back to the new row.
    for (let column = nearest; column >= 0;) {
      const giver = reachedFrom[column];
      const next = giver === newRow ? -1 : columnOfRow[giver];
      rowOfColumn[column] = giver;
      columnOfRow[giver] = column;
      column = next;
    }
  }
  return columnOfRow;
}
