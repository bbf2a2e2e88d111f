"""Lucid's redirected ReLU, the rule that lets an ascent begin, against its definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope import Network
from convscope.trace import Trace


def redirected(gradient, values, high=None):
    """By its definition, image by image, entry by entry."""
    result = torch.zeros_like(gradient)
    for image in range(len(gradient)):
        places = [tuple(each) for each in torch.ones_like(values[image]).nonzero().tolist()]
        inside = {at: 0 < values[image][at] < (high or float("inf")) for at in places}
        if any(inside[at] and gradient[image][at] != 0 for at in places):
            chosen = [at for at in places if inside[at]]
        else:
            low = [at for at in places if values[image][at] <= 0 and gradient[image][at] > 0]
            cut = [at for at in places if high and values[image][at] >= high and gradient[image][at] < 0]
            chosen = [*low, *cut]
        for at in chosen:
            result[image][at] = gradient[image][at]
    return result


class Rectified(nn.Module):
    def __init__(self, rectify):
        super().__init__()
        self.rectify = rectify

    def forward(self, images):
        return self.rectify(images + 0)


SPELLINGS = {
    "module": (nn.ReLU(), None),
    "in place": (F.relu_, None),
    "clamp": (lambda x: x.clamp(min=0), None),
    "relu6": (nn.ReLU6(), 6.0),
    "hardtanh in place": (lambda x: F.hardtanh_(x, 0, 6), 6.0),
}


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_it_is_the_gradient_and_a_way_back_where_that_is_nothing(spelled):
    rectify, high = SPELLINGS[spelled]
    generator = torch.Generator().manual_seed(0)
    values = 6 * torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    values[1] = -values[1].abs()  # closed everywhere
    values[2] = values[2].abs() + 6  # cut off everywhere, where there is a cut
    weights[3] = 0
    values[4, :, 0], weights[4, :, 1:] = -1, 0  # open, but not where the gradient comes from
    with Trace(Rectified(rectify), [], gradients=True, relu_rule="redirected") as trace:
        output = trace.run(values)
        found = trace.gradients((output * weights).sum(), ["input"])["input"]
    assert torch.equal(found, redirected(weights, values, high))


def test_other_nonlinearities_keep_their_gradient():
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for rule in (None, "redirected"):
        with Trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU()), ["1"], gradients=True, relu_rule=rule) as trace:
            torch.manual_seed(0)
            trace.module[0].weight.data.fill_(0.1)
            trace.module[0].bias.data.fill_(0.2)
            trace.run(images)
            found.append(trace.gradients(trace["1"].sum(), ["input"])["input"])
    assert torch.equal(*found)


def test_it_leads_out_through_several_layers():
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        for layer, bias in ((first, -2.0), (second, -3.0)):
            layer.weight.fill_(1.0)
            layer.bias.fill_(bias)
    network = Network.from_module(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), image_size=2)
    image = torch.ones(1, 1, 2, 2)
    for rule, expected in ((None, 0.0), ("redirected", 1.0)):
        with network.trace(["3"], gradients=True, relu_rule=rule) as trace:
            trace.run(image)
            found = trace.gradients(trace["3"].sum(), ["input"])["input"]
        assert (found == expected).all()
