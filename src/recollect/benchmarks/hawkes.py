"""Event streams with a known likelihood: multivariate Hawkes processes, simulated by thinning.

lambda_e(t) = base_e + sum over earlier events j of excitation[e, e_j] * decay * exp(-decay (t - t_j))

Shapes: N sequences, T events each, K types. Times start at 0 and grow; every sequence has T events.
Source: Hawkes, Spectra of some self-exciting and mutually exciting point processes (1971); thinning by Ogata (1981).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.weights.batches import Rows


@dataclass(frozen=True)
class Hawkes:
    """A process of K types. Raises InvalidInput when the excitation grows without bound."""

    base: np.ndarray  # [K], events a unit of time
    excitation: np.ndarray  # [K, K]: events of type e that one of type f sets off, on average
    decay: float = 2.0  # a unit of time

    def __post_init__(self) -> None:
        if np.abs(np.linalg.eigvals(self.excitation)).max() >= 1:
            raise InvalidInput("excitation: its largest eigenvalue is 1 or more, so events never end; make it smaller.")

    @classmethod
    def random(cls, types: int, seed: int) -> Hawkes:
        """A process of random rates, in which each type sets off a few others."""
        rng = np.random.default_rng(seed)
        excitation = rng.random((types, types)) * (rng.random((types, types)) < 0.4)
        excitation *= 0.8 / max(0.1, np.abs(np.linalg.eigvals(excitation)).max())
        return cls(rng.dirichlet(np.full(types, 0.7)) * 1.0 + 0.02, excitation, decay=float(rng.uniform(1.0, 4.0)))

    def simulate(self, num_sequences: int, num_events: int, seed: int) -> Rows:
        """`times` [N, T] and `types` [N, T], with `labels` equal to the types."""
        rng, K = np.random.default_rng(seed), len(self.base)
        times, types = np.zeros((num_sequences, num_events)), np.zeros((num_sequences, num_events), dtype=np.int64)
        for row in range(num_sequences):
            now, excited, count = 0.0, np.zeros(K), 0
            while count < num_events:
                bound = (self.base + excited).sum()  # the rate only falls until the next event
                wait = rng.exponential(1 / bound)
                now, excited = now + wait, excited * np.exp(-self.decay * wait)
                rates = self.base + excited
                if rng.random() * bound <= rates.sum():
                    kind = int(rng.choice(K, p=rates / rates.sum()))
                    times[row, count], types[row, count] = now, kind
                    excited = excited + self.decay * self.excitation[:, kind]
                    count += 1
        kinds = torch.tensor(types)
        return Rows(times=torch.tensor(times, dtype=torch.float32), types=kinds, labels=kinds)

    def log_likelihood(self, times: Tensor, types: Tensor) -> float:
        """The exact log-likelihood of sequences up to their last event, in nats an event."""
        total, (N, T) = 0.0, times.shape
        for row in range(N):
            now, excited = 0.0, np.zeros(len(self.base))
            for when, kind in zip(times[row].tolist(), types[row].tolist(), strict=True):
                fade = np.exp(-self.decay * (when - now))
                total -= self.base.sum() * (when - now) + excited.sum() * (1 - fade) / self.decay
                excited, now = excited * fade, when
                total += float(np.log(self.base[kind] + excited[kind]))
                excited = excited + self.decay * self.excitation[:, kind]
        return total / (N * T)
