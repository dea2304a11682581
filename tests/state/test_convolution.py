"""The short convolution by hand, with its tail."""

from __future__ import annotations

import torch

from recollect.state.convolution import ShortConvolution


def test_each_output_weighs_the_last_inputs_of_its_channel():
    conv = ShortConvolution(2, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0]], [[0.0, 0.0, 1.0]]]))
    x = torch.tensor([[[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]])
    y, tail = conv(x[:, :3], conv.initial_tail(1))
    assert y[0, :, 0].tolist() == [100.0, 210.0, 321.0]
    assert y[0, :, 1].tolist() == [5.0, 6.0, 7.0]
    assert tail.tolist() == x[:, 1:3].tolist()
    assert conv(x[:, 3:], tail)[0][0, 0].tolist() == [432.0, 8.0]
