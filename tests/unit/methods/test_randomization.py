"""A copy that forgets from its end on: in which order, to what, and that the original never notices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import Refused
from convscope.methods.attribution.seed import BoundSeed
from convscope.methods.base import Target
from convscope.methods.evidence.randomization import cascade, copy_of, forget, relevant_parameters
from convscope.network.network import Network
from convscope.testing import TINY_NETWORKS, tiny_network
from convscope.testing.laws import check_same_state, state_of


class Chain(nn.Module):
    """Three convolutions with batch normalization between them, a classifier, and one that is never asked."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.fc = nn.Linear(4, 3)  # registered first, called last
        self.body = nn.Sequential(
            *(each for n in range(3) for each in (nn.Conv2d(1 if n == 0 else 4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        )

    def forward(self, images):
        self.unused(images.new_ones(1, 3))
        return self.fc(self.body(images).mean(dim=(2, 3)))


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return Network.from_module(Chain(), image_size=12)


def test_the_cascade_goes_from_the_last_call_to_the_first(chain):
    stages = cascade(chain, relevant(chain, "score:1"), 10)
    assert [each.paths for each in stages] == [
        ("fc",),
        ("body.6", "body.7"),
        ("body.3", "body.4"),
        ("body.0", "body.1"),
    ]
    assert [each.name for each in stages] == ["fc", "body.6 and later", "body.3 and later", "body.0 and later"]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_few_stages_still_go_from_the_last_layer_to_all(chain, stages):
    found = cascade(chain, relevant(chain, "score:1"), stages)
    paths = [path for stage in found for path in stage.paths]
    assert len(found) == stages
    assert found[0].paths == ("fc",)
    assert len(paths) == len(set(paths))
    assert stages == 1 or paths[-2:] == ["body.0", "body.1"]


def test_what_is_explained_depends_on_what_lies_before_it_only(chain):
    stages = cascade(chain, relevant(chain, "unit:body.5:2"), 10)
    assert [each.paths for each in stages] == [("body.3", "body.4"), ("body.0", "body.1")]
    stages = cascade(chain, relevant(chain, "unit:body.3:2:1,1"), 10)
    assert [each.paths for each in stages] == [("body.3",), ("body.0", "body.1")]


def test_nothing_learned_before_the_target_is_refused():
    module = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3))
    network = Network.from_module(module, image_size=5)
    with pytest.raises(Refused, match="nothing that was learned"):
        cascade(network, relevant(network, "unit:0:0"), 3)


def relevant(network, objective):
    copied = network.with_module(copy_of(network.module))
    batch = copied.batch(torch.randn(1, network.channels, *network.image_size, generator=torch.manual_seed(1)))
    bound = BoundSeed.bind(copied, Target(), objective, "mean", batch)
    found = relevant_parameters(copied, bound, batch)
    assert not any(each.requires_grad for each in copied.module.parameters())
    return found


def test_forgetting_draws_each_kernel_anew_and_resets_what_normalizes(chain):
    copied = copy_of(chain.module)
    forget(copied, ["fc", "body.3", "body.4"], seed=0)
    for name in ("unused", "body.0", "body.1", "body.6", "body.7"):
        for mine, theirs in zip(
            copied.get_submodule(name).state_dict().values(),
            chain.module.get_submodule(name).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(mine, theirs), name
    assert not copied.fc.bias.any()
    assert not copied.body[3].bias.any()
    norm = copied.body[4]
    assert torch.equal(norm.weight, torch.ones(4))
    assert torch.equal(norm.running_var, torch.ones(4))
    assert not norm.running_mean.any()
    assert not norm.bias.any()
    large = nn.Conv2d(64, 128, 3, groups=2)
    forget(large, [""], seed=0)
    assert float(large.weight.detach().std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)
    assert float(large.weight.detach().mean()) == pytest.approx(0, abs=0.002)


def test_the_values_depend_on_the_seed_and_the_name_alone(chain):
    at_once, step_by_step, other = (copy_of(chain.module) for _ in range(3))
    forget(at_once, ["fc", "body.0", "body.3"], seed=1)
    torch.manual_seed(99)
    for path in ("body.3", "fc", "body.0"):
        forget(step_by_step, [path], seed=1)
    forget(other, ["fc"], seed=2)
    assert all(
        torch.equal(one, two)
        for one, two in zip(at_once.state_dict().values(), step_by_step.state_dict().values(), strict=True)
    )
    assert not torch.equal(at_once.fc.weight, other.fc.weight)
    assert not torch.equal(at_once.body[0].weight[:, :1], at_once.body[3].weight[:, :1])


def test_what_is_no_kernel_is_shuffled():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 50, 3)
            self.scale = nn.Parameter(torch.arange(50.0))

        def forward(self, images):
            return (self.conv(images) * self.scale[:, None, None]).mean((2, 3))

    network = Network.from_module(Scaled(), image_size=5)
    assert [each.paths for each in cascade(network, None, 5)] in ([("conv",), ("",)], [("conv", "")], [("", "conv")])
    copied = copy_of(network.module)
    forget(copied, [""], seed=0)
    assert not torch.equal(copied.scale, network.module.scale)
    assert torch.equal(copied.scale.sort().values, network.module.scale)


@pytest.mark.parametrize("tiny", TINY_NETWORKS.values(), ids=lambda tiny: tiny.name)
def test_a_network_that_forgot_everything_still_answers_and_the_original_never_notices(tiny):
    network = tiny.network()
    before = state_of(network.module)
    copied = network.with_module(copy_of(network.module))
    for stage in cascade(copied, None, 6):
        forget(copied.module, stage.paths, seed=0)
        with copied.trace([]) as trace:
            scores = copied.scores(trace.run(tiny.images(3), stop=False))
        assert torch.isfinite(scores).all()
    check_same_state(before, state_of(network.module))
    own = {id(each) for each in network.module.state_dict(keep_vars=True).values()}
    assert not own & {id(each) for each in copied.module.state_dict(keep_vars=True).values()}
    storages = {each.data_ptr() for each in network.module.parameters()}
    assert not storages & {each.data_ptr() for each in copied.module.parameters()}


class Frozen(nn.Module):
    """As torchvision's: gain, shift and statistics are buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 3.0), ("bias", 1.0), ("running_mean", 2.0), ("running_var", 1e-8)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, images):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return images * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_statistics_alone_are_forgotten_too_but_not_those_that_prepare_the_image():
    module = nn.Sequential(
        *(nn.BatchNorm2d(1, affine=False), nn.Conv2d(1, 4, 3), Frozen(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
    ).eval()
    module[5].running_var.fill_(7.0)
    module[0].running_mean.fill_(0.25)
    network = Network.from_module(module, image_size=8)
    stages = cascade(network, relevant(network, "unit:6:1"), 5)
    assert [each.paths for each in stages] == [("4", "5"), ("1", "2")]
    for stage in stages:
        forget(module, stage.paths, seed=0)
    assert torch.equal(module[5].running_var, torch.ones(4))
    assert torch.equal(module[2].running_var, torch.ones(4))
    assert torch.equal(module[2].weight, torch.ones(4))
    assert not module[2].bias.any()
    assert module[0].running_mean.tolist() == [0.25]


def test_a_parametrized_weight_is_forgotten_with_its_bias():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)))
    network = Network.from_module(module, image_size=8)
    stages = cascade(network, relevant(network, "unit:1:0"), 5)
    assert [each.paths for each in stages] == [("1",), ("0",)]
    copied = copy_of(module)
    forget(copied, ["1"], seed=0)
    assert not torch.equal(copied[1].weight, module[1].weight)
    assert not copied[1].bias.any()
    assert torch.equal(copied[0].weight, module[0].weight)


def test_deep_networks_keep_their_scale():
    # With trained statistics kept, one channel of tiny variance would multiply everything by 300 in each layer.
    layers = []
    for _ in range(40):
        norm = nn.BatchNorm2d(8)
        norm.running_var.data[0] = 1e-10
        layers += [nn.Conv2d(8, 8, 3, padding=1), norm, nn.ReLU()]
    module = nn.Sequential(nn.Conv2d(1, 8, 3), *layers).eval()
    network = Network.from_module(module, image_size=10)
    for stage in cascade(network, None, 6):
        forget(module, stage.paths, seed=0)
    with torch.no_grad():
        found = module(torch.randn(2, 1, 10, 10, generator=torch.manual_seed(0)))
    assert 1e-6 < float(found.std()) < 1e6


def test_a_copy_of_what_torch_can_not_copy_by_itself():
    with pytest.warns(FutureWarning, match="weight_norm"):
        convolution = nn.utils.weight_norm(nn.Conv2d(1, 2, 3))
    module = nn.Sequential(convolution, nn.Flatten(), nn.Linear(18, 3))
    module(torch.ones(1, 1, 5, 5))  # leaves a computed weight behind
    copied = copy_of(module)
    image = torch.ones(1, 1, 5, 5)
    assert torch.equal(copied(image), module(image))
    forget(copied, ["0"], seed=0)
    assert not torch.equal(copied(image), module(image))


def test_a_network_that_can_not_be_copied_is_refused():
    class Held(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("it holds a camera")

        def forward(self, images):
            return F.relu(images)

    with pytest.raises(Refused, match="it holds a camera") as refused:
        copy_of(Held())
    assert refused.value.next_step


def test_a_reused_module_stands_where_it_is_called_first():
    network = tiny_network("reused").network()
    assert [each.paths for each in cascade(network, None, 6)] == [("linear",), ("convolution",)]
