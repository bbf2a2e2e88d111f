"""Max pooling the faster way: torch's own values and gradients, to the last bit, whatever the window and the maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.trace import Trace
from convscope.trace.pooling import PoolingMode

WINDOWS = {
    "halving": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "in place": {"kernel_size": 3, "stride": 1, "padding": 1},
    "oblong": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1)},
    "dilated": {"kernel_size": 2, "stride": 2, "dilation": 2},
    "rounded up": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
}


def maps(kind: str) -> torch.Tensor:
    values = torch.randn(2, 9, 11, 14, generator=torch.Generator().manual_seed(0))
    if kind == "ties":
        values = values.round().clamp(min=0)
    if kind == "not finite":
        values[0, :, 3:5, 4] = torch.nan
        values[1, 2] = -torch.inf
        values[1, 3, 5, 5] = torch.inf
    return values.double() if kind == "double" else values


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(1e30), other.nan_to_num(1e30)) and one.stride() == other.stride()


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("kind", ["plain", "ties", "not finite", "double"])
def test_values_and_gradients_are_torchs_own(window, kind):
    plain, ours = maps(kind).requires_grad_(), maps(kind).requires_grad_()
    expected = F.max_pool2d(plain, **window)
    with PoolingMode():
        found = F.max_pool2d(ours, **window)
    assert type(found.grad_fn).__name__ == "_PooledBackward"
    assert same(found, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    weights[0, 0] = 0
    assert same(torch.autograd.grad(found, ours, weights)[0], torch.autograd.grad(expected, plain, weights)[0])
    with torch.no_grad(), PoolingMode():
        assert same(F.max_pool2d(ours, **window), expected.detach())


@pytest.mark.parametrize(
    "call",
    [
        nn.MaxPool2d(3, 2),
        lambda x: F.max_pool2d(x, 3, 2),
        lambda x: F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
        lambda x: torch.max_pool2d(x, 3, 2, 1, 1, True),
        lambda x: torch.max_pool2d(x, [3]),
        lambda x: F.max_pool2d(x, 3, 2, 1, 1, False, True)[1].float(),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.max_pool2d(x[:, :3], 2),
        lambda x: F.max_pool2d(x[0], 2),
        lambda x: F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2).contiguous(),
        lambda x: F.max_pool2d(x.half(), 2).float(),
        lambda x: F.adaptive_max_pool2d(x, 3),
    ],
)
def test_however_it_is_called(call):
    expected = call(maps("plain"))
    with PoolingMode():
        assert same(call(maps("plain")), expected)


def test_a_wrong_call_fails_as_it_does_in_torch():
    for wrong in ({"kernel_size": 30}, {"kernel_size": 2, "padding": 2}):
        with pytest.raises(RuntimeError) as expected:
            F.max_pool2d(maps("plain"), **wrong)
        with PoolingMode(), pytest.raises(RuntimeError) as found:
            F.max_pool2d(maps("plain"), **wrong)
        assert str(found.value).splitlines()[0] == str(expected.value).splitlines()[0]


def test_under_functions_that_transform_functions():
    values = maps("plain")
    with PoolingMode():
        found = torch.func.vmap(lambda each: F.max_pool2d(each[None], 3)[0])(values)
    assert same(found, F.max_pool2d(values, 3))


@pytest.mark.parametrize("rule", [None, "guided", "deconvnet"])
def test_a_trace_pools_the_faster_way_also_under_a_rule(rule):
    module = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(81, 2))
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    found = {}
    for channels_fewest in (8, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("convscope.trace.pooling._FEWEST_CHANNELS", channels_fewest)
            with Trace(module, ["2"], gradients=True, relu_rule=rule) as trace:
                output = trace.run(images, stop=False)
                pooled = output.grad_fn.next_functions[1][0].next_functions[0][0]
                ours = type(pooled).__name__ == "_PooledBackward"
                found[ours] = trace.gradients(output[:, 1].sum(), ["input"])["input"]
    assert torch.equal(found[True], found[False])
