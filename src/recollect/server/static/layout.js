// Places for the nodes of a small graph: on rings around the first, then pushed apart and pulled along links until they rest.

const STEPS = 260;
const EDGE = { x: 48, y: 30 }; // pixels that are kept free at the border
const GOLDEN = 2.399963; // radians: neighbours on a ring do not line up

/** [{x, y}] of `count` nodes joined by `ends` [[one, other]], the first in the middle. The same graph gives the same places. */
export function settle(count, ends, width, height) {
  const [cx, cy] = [width / 2, height / 2];
  const near = new Set(ends.filter((pair) => pair.includes(0)).flat());
  const places = Array.from({ length: count }, (_, row) => {
    const reach = row === 0 ? 0 : near.has(row) ? 0.28 : 0.44;
    return { x: cx + Math.cos(row * GOLDEN) * reach * width, y: cy + Math.sin(row * GOLDEN) * reach * height };
  });
  const ideal = Math.min(Math.sqrt((width * height) / Math.max(count, 1)) * 0.8, Math.min(width, height) * 0.3);
  for (let step = 0; step < STEPS; step += 1) {
    const heat = ideal * 0.5 * (1 - step / STEPS);
    const moves = places.map(() => ({ x: 0, y: 0 }));
    for (let one = 0; one < count; one += 1) {
      for (let other = one + 1; other < count; other += 1) {
        const [dx, dy] = [places[one].x - places[other].x, (places[one].y - places[other].y) * 1.4];
        const far = Math.max(Math.hypot(dx, dy), 0.1);
        push(moves, one, other, (dx / far) * (ideal ** 2 / far), (dy / far) * (ideal ** 2 / far));
      }
    }
    for (const [one, other] of ends) {
      const [dx, dy] = [places[other].x - places[one].x, places[other].y - places[one].y];
      const far = Math.hypot(dx, dy);
      push(moves, one, other, (dx * far) / ideal, (dy * far) / ideal);
    }
    for (let row = 1; row < count; row += 1) {
      const { x, y } = moves[row];
      const size = Math.max(Math.hypot(x, y), 0.1);
      const by = Math.min(size, heat) / size;
      places[row].x = Math.min(width - EDGE.x, Math.max(EDGE.x, places[row].x + x * by));
      places[row].y = Math.min(height - EDGE.y, Math.max(EDGE.y, places[row].y + y * by));
    }
  }
  return places.map(({ x, y }) => ({ x: Math.round(x * 10) / 10, y: Math.round(y * 10) / 10 }));
}

function push(moves, one, other, x, y) {
  moves[one].x += x;
  moves[one].y += y;
  moves[other].x -= x;
  moves[other].y -= y;
}
