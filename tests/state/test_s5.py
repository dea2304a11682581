"""S5: one system for all features, against its recurrence written out."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.s5 import S5


def test_the_scan_is_the_recurrence_written_out(x):
    layer = S5(8, 8, num_blocks=2)
    eigenvalues = torch.complex(-layer.log_decay.exp(), layer.turn)
    kept = (layer.log_step.exp() * eigenvalues).exp()
    given = torch.view_as_complex(layer.input) * ((kept - 1) / eigenvalues)[:, None]
    hidden, found = torch.zeros(3, 4, dtype=torch.complex64), []
    for t in range(x.shape[1]):
        hidden = kept * hidden + torch.einsum("pd,bd->bp", given, x[:, t].to(given.dtype))
        y = 2 * torch.einsum("dp,bp->bd", torch.view_as_complex(layer.output), hidden).real + layer.skip * x[:, t]
        found.append(layer.out(torch.nn.functional.gelu(y)))
    torch.testing.assert_close(layer(x)[0], torch.stack(found, 1), atol=1e-5, rtol=1e-4)


def test_blocks_begin_alike_and_sizes_that_do_not_fit_are_refused():
    layer = S5(4, 12, num_blocks=3)
    assert torch.equal(layer.turn[:2], layer.turn[2:4])
    with pytest.raises(InvalidInput, match="state_size: 10 does not make 3 blocks"):
        S5(4, 10, num_blocks=3)
