"""The graph of links: personalised PageRank from some records to all that they lead to.

A random walker starts at the seeds, follows links with a probability in proportion to their weights, and returns to the
seeds with probability `1 - damping` at each step; how often it visits a record says how closely that belongs to the seeds.
A walker that finds no link returns to the seeds.

Paper: Topic-sensitive PageRank, Haveliwala, WWW (2002); damping 0.5 as in HippoRAG, arXiv:2405.14831 (2024).
Cost: O(steps * links). `pagerank_by_hand` is the readable twin; without scipy NumPy does the products, more slowly.

Shapes: N nodes, E links, C parts of a start.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from recollect.store.database import Database


class Transitions:
    """Where a walker goes from each node, prepared once for many walks."""

    def __init__(self, sources: np.ndarray, targets: np.ndarray, weights: np.ndarray, num_nodes: int):
        """sources, targets: int64 (E,), ends of directed links. weights: float64 (E,), not negative."""
        leaving = np.bincount(sources, weights, num_nodes)
        share = weights / np.maximum(leaving[sources], 1e-300)
        self.num_nodes = num_nodes
        self.stuck = leaving <= 0  # bool (N,)
        self._links = (sources, targets, share)
        self._matrix = None
        if find_spec("scipy") is not None:
            from scipy.sparse import csr_array

            self._matrix = csr_array((share, (targets, sources)), shape=(num_nodes, num_nodes))

    def visits(self, seeds: np.ndarray, damping: float = 0.5, num_steps: int = 40) -> np.ndarray:
        """Visits of each node, float64 of the shape of `seeds`, summing to 1.

        seeds: float64 (N,), how likely the walker starts at each node; need not sum to 1, but must not be all zero. With
        (N, C) the start is divided into C parts, and so are the visits: the columns sum to the visits of the whole.
        """
        start = seeds / seeds.sum()
        visits = start
        for _ in range(num_steps):
            visits = damping * (self._moved(visits) + visits[self.stuck].sum() * start) + (1 - damping) * start
        return visits

    def _moved(self, visits: np.ndarray) -> np.ndarray:
        if self._matrix is not None:
            return self._matrix @ visits
        sources, targets, share = self._links
        if visits.ndim == 1:
            return np.bincount(targets, share * visits[sources], self.num_nodes)
        return np.stack([self._moved(column) for column in visits.T], axis=1)


def pagerank(
    sources: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    seeds: np.ndarray,
    damping: float = 0.5,
    num_steps: int = 40,
) -> np.ndarray:
    """Visits of each node, float64 (N,), summing to 1; see `Transitions`."""
    return Transitions(sources, targets, weights, len(seeds)).visits(seeds, damping, num_steps)


def pagerank_by_hand(
    sources: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    seeds: np.ndarray,
    damping: float = 0.5,
    num_steps: int = 40,
) -> np.ndarray:
    """The specification of `pagerank`, with NumPy alone."""
    start = seeds / seeds.sum()
    leaving = np.zeros(len(seeds))
    np.add.at(leaving, sources, weights)
    visits = start
    for _ in range(num_steps):
        arriving = np.zeros(len(seeds))
        moving = leaving[sources] > 0
        np.add.at(arriving, targets[moving], visits[sources[moving]] * weights[moving] / leaving[sources[moving]])
        visits = damping * (arriving + visits[leaving <= 0].sum() * start) + (1 - damping) * start
    return visits


def related(db: Database, user: str, id_: str, k: int) -> list[tuple[str, float]]:
    """(id, share of a random walk's visits) of the k records that a user's links lead to from one, followed both ways."""
    links = db.rows(
        "SELECT source, target, weight FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ? AND weight > 0",
        (user,),
    )
    names = sorted({id_, *(end for link in links for end in link[:2])})
    nodes = {name: number for number, name in enumerate(names)}
    one, other = (np.array([nodes[link[end]] for link in links], np.int64) for end in (0, 1))
    weights = np.array([link[2] for link in links] * 2, np.float64)
    seeds = np.zeros(len(nodes))
    seeds[nodes[id_]] = 1
    visits = pagerank(np.concatenate([one, other]), np.concatenate([other, one]), weights, seeds)
    order = [row for row in np.argsort(-visits, kind="stable") if visits[row] > 1e-12 and names[row] != id_][:k]
    return [(names[row], float(visits[row])) for row in order]
