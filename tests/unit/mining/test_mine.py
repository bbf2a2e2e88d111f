"""Mining against the slow way: every activation of every image at once, in float64 where sums are compared."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from convscope import Network
from convscope.errors import BadImage, Cancelled, ConvscopeError, Refused, UnknownName
from convscope.images import ImageSet, load_images
from convscope.mining.mine import merge, mine
from convscope.mining.shard import Miner, Shard, ShardResult, Work, mine_shard
from convscope.mining.study import Study
from convscope.progress import Progress, watch
from convscope.store import Store

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 20


def network(seed: int = 0, **options: Any) -> Network:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    return Network.from_module(module.eval(), **{"image_size": SIZE, **options})


def pictures(count: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(count)]


def every_activation(net: Network, images: ImageSet, layer: str) -> np.ndarray[Any, Any]:
    """[image, unit, row, column], in batches of the size that mining uses, the last one filled up."""
    found = []
    ids = list(images.ids)
    for start in range(0, len(ids), 8):
        part = ids[start : start + 8]
        batch = torch.zeros(8, 3, SIZE, SIZE)
        batch[: len(part)] = torch.cat([net.prepare(images[number]) for number in part])
        with net.trace([layer]) as trace:
            trace.run(batch)
            found.append(net.layer(layer).to_units(trace[layer])[: len(part)].numpy())
    return np.concatenate(found)


def saved(study: Study) -> dict[str, bytes]:
    return {layer: study.state(layer).to_view().to_bytes() for layer in study.layers}


@pytest.mark.parametrize("layer", ["0", "1", "2", "4", "7"])
def test_ranks_places_and_sums_are_those_of_all_activations(layer: str, tmp_path: Path) -> None:
    net, images = network(), load_images(pictures(70))
    state = mine(net, images, layers="*", k=5, study=tmp_path, executor="serial", shard_size=40).state(layer)
    maps = every_activation(net, images, layer)
    for ranks, sign in ((state.top, -1), (state.bottom, 1)):
        extreme = maps.max((2, 3)) if sign < 0 else maps.min((2, 3))
        for unit in range(maps.shape[1]):
            order = np.lexsort((np.arange(70), sign * extreme[:, unit]))[:5]
            assert ranks.image[unit].tolist() == order.tolist()
            assert ranks.value[unit].tolist() == extreme[order, unit].tolist()
            flat = sign * maps[order, unit].reshape(5, -1)
            assert ranks.position[unit].tolist() == flat.argmin(1).tolist()
    double = maps.astype(np.float64)
    found = state.statistics()
    scale = np.abs(double).max()
    np.testing.assert_allclose(found["mean"], double.mean((0, 2, 3)), atol=2e-6 * scale)
    np.testing.assert_allclose(found["variance"], double.var((0, 2, 3)), atol=2e-6 * scale**2)
    np.testing.assert_allclose(found["zero_fraction"], (maps == 0).mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(found["positive_fraction"], (maps.max((2, 3)) > 0).mean(0), atol=1e-12)
    pooled = double.mean((2, 3))
    np.testing.assert_allclose(state.covariance(), np.cov(pooled.T, bias=True), atol=4e-6 * scale**2)
    counts, edges = state.histogram()
    for unit in range(maps.shape[1]):
        slow = [((maps.max((2, 3))[:, unit] >= a) & (maps.max((2, 3))[:, unit] < b)).sum() for a, b in pairwise(edges)]
        inside = edges[:-1] > 0  # an edge belongs to the bin above it where values are positive
        assert counts[unit][inside].tolist() == np.array(slow)[inside].tolist()
        assert counts[unit].sum() == 70


def test_without_numba_a_study_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(pictures(30))
    with_numba = mine(network(), images, study=tmp_path / "a", k=4, shard_size=16, executor="serial")
    monkeypatch.setattr("convscope.mining.mine.numba_is_there", lambda: False)
    without = mine(network(), images, study=tmp_path / "b", k=4, shard_size=16, executor="serial")
    assert (with_numba.settings.reduction, without.settings.reduction) == ("numba", "torch")
    for layer in with_numba.layers:
        ours, theirs = with_numba.state(layer), without.state(layer)
        for name in ("top", "bottom"):
            assert np.array_equal(getattr(ours, name).key, getattr(theirs, name).key)
            assert np.array_equal(getattr(ours, name).position, getattr(theirs, name).position)
        for name, values in ours.statistics().items():
            assert np.allclose(values, theirs.statistics()[name], rtol=1e-4, atol=1e-5, equal_nan=True)
    # It goes on as it was begun, also where Numba is there again.
    monkeypatch.undo()
    more = load_images([*pictures(30), *pictures(4, seed=1)])
    assert mine(network(), more, study=tmp_path / "b", executor="serial").settings.reduction == "torch"


def test_the_sample_is_the_same_random_images_for_every_unit(tmp_path: Path) -> None:
    net, images = network(), load_images(pictures(90))
    state = mine(net, images, layers="0", k=2, study=tmp_path, executor="serial").state("0")
    assert len(state.sample.image) == 64
    maps = every_activation(net, images, "0")
    assert (state.sample.value == maps.max((2, 3))[state.sample.image].T).all()
    places = maps.reshape(90, 6, -1).argmax(2)[state.sample.image].T
    assert (state.sample.position == places).all()


def test_any_shards_in_any_order_and_twice_give_the_same_bytes(tmp_path: Path) -> None:
    net, images = network(), load_images(pictures(50))
    whole = mine(net, images, layers="*", k=4, study=tmp_path / "whole", executor="serial", shard_size=50)
    cut = mine(net, images, layers="*", k=4, study=tmp_path / "cut", executor="serial", shard_size=7)
    assert saved(whole) == saved(cut)
    # Shards one by one, backwards, through their bytes, each by a miner of its own.
    work = Work(net, images, np.arange(50), cut.settings)
    merged: dict[str, Any] = {}
    for shard in reversed(cut.plan.shards()):
        merged = merge(merged, ShardResult.from_bytes(mine_shard(work, shard).to_bytes()).states)
    assert {layer: state.to_view().to_bytes() for layer, state in merged.items()} == saved(whole)

    class Twice:
        """Gives every shard twice, the last one first."""

        def run(self, work: Work, shards: Any, progress: Any) -> Any:
            miner = Miner(work)
            for shard in reversed(list(shards)):
                result = miner.mine(shard, progress)
                yield result
                yield result

    again = mine(net, images, layers="*", k=4, study=tmp_path / "twice", executor=Twice(), shard_size=7)
    assert saved(again) == saved(whole)


def test_a_cancelled_study_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    net, images = network(), load_images(pictures(60))
    whole = saved(mine(net, images, k=3, study=tmp_path / "whole", executor="serial", shard_size=16))
    heard: list[Progress] = []

    def listen(progress: Progress) -> None:
        heard.append(progress)
        if progress.done > 30:
            watcher.cancel.set()

    with watch(listen) as watcher, pytest.raises(Cancelled):
        mine(net, images, k=3, study=tmp_path / "cut", executor="serial", shard_size=16)
    halfway = Study.open(tmp_path / "cut")
    done = halfway.done
    assert 16 <= done < 60
    assert not halfway.finished
    assert halfway.state("0").images == done
    heard.clear()
    with watch(heard.append):
        study = mine(net, images, study=tmp_path / "cut", executor="serial")
    assert heard[0].done == done
    assert heard[-1].done == heard[-1].total == 60
    assert saved(study) == whole
    assert study.finished


def test_added_images_are_the_only_ones_that_run(tmp_path: Path) -> None:
    net, shots = network(), pictures(45)
    for number, shot in enumerate(shots):
        save_png(tmp_path / "photos" / f"{'bca'[number % 3]}{number}.png", shot)
    first = [tmp_path / "photos" / f"{'bca'[n % 3]}{n}.png" for n in range(30)]
    mine(
        net, load_images([str(path) for path in first]), k=3, study=tmp_path / "study", executor="serial", shard_size=8
    )
    heard: list[Progress] = []
    with watch(heard.append):
        study = mine(net, load_images(tmp_path / "photos"), study=tmp_path / "study", executor="serial")
    assert next(each.done for each in heard if each.message == "mining") == 30
    assert study.count == study.done == 45
    # Ids of the first images stay what they were, though the folder now sorts others between them.
    assert study.names(range(30)) == [path.name for path in first]
    images = load_images(tmp_path / "photos")
    by_name = {image.name: image for image in images}
    values = every_activation(net, ImageSet([by_name[name] for name in study.names(range(45))]), "0").max((2, 3))
    state = study.state("0")
    assert (state.top.value == np.sort(values, axis=0)[::-1][:3].T).all()


def save_png(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path)


def test_damaged_images_are_skipped_and_listed_and_change_nothing(tmp_path: Path) -> None:
    net, shots = network(), pictures(40)
    for number, shot in enumerate(shots):
        save_png(tmp_path / "good" / f"{number:03}.png", shot)
        save_png(tmp_path / "bad" / f"{number:03}.png", shot)
    images = load_images(tmp_path / "bad")  # listed while they were whole
    good = load_images(tmp_path / "good")
    broken = [0, 7, 8, 39]
    (tmp_path / "bad" / "000.png").write_bytes(b"")
    (tmp_path / "bad" / "007.png").unlink()
    (tmp_path / "bad" / "008.png").write_bytes(b"GIF89a not really")
    (tmp_path / "bad" / "039.png").write_bytes((tmp_path / "good" / "038.png").read_bytes()[:200])
    study = mine(net, images, k=3, study=tmp_path / "study", executor="serial", shard_size=16)
    assert [name for name, _ in study.skipped] == [f"{number:03}.png" for number in broken]
    assert all(reason for _, reason in study.skipped)
    assert study.finished
    kept = ImageSet([image for image in good if image.id not in broken])
    reference = mine(net, kept, k=3, study=tmp_path / "reference", executor="serial", shard_size=16)
    names = [f"{number:03}.png" for number in range(40) if number not in broken]
    for layer in study.layers:
        one, other = study.state(layer), reference.state(layer)
        assert one.images == other.images == 36
        assert (one.top.value == other.top.value).all()
        assert [study.names(row) for row in one.top.image] == [[names[i] for i in row] for row in other.top.image]
        assert (one.top.position == other.top.position).all()


def test_nothing_readable_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    for number in range(3):
        save_png(tmp_path / "photos" / f"{number}.png", pictures(1)[0])
    images = load_images(tmp_path / "photos")
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(BadImage):
        mine(network(), images, study=tmp_path / "study", executor="serial")


class Poisoned(nn.Module):
    """NaN in unit 0 and infinity in unit 1 wherever the image's first pixel is white."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        white = image[:, 0, 0, 0] >= 1
        shift = torch.zeros(len(image), 3, 1, 1)
        shift[white, 0], shift[white, 1] = torch.nan, torch.inf
        out: torch.Tensor = self.convolution(image)
        return out + shift


def test_what_is_not_finite_is_counted_and_ranked_nowhere(tmp_path: Path) -> None:
    shots = pictures(30)
    for number, shot in enumerate(shots):
        shot[0, 0] = 255 if number % 3 == 0 else 0
    net = Network.from_module(Poisoned().eval(), image_size=SIZE)
    state = mine(net, shots, layers="add", k=4, study=tmp_path, executor="serial").state("add")
    assert state.counts.not_finite.tolist() == [10, 10, 0]
    assert all(image % 3 for image in state.top.image[:2].ravel().tolist())
    assert np.isfinite(state.top.value).all()
    assert np.isnan(state.sample.value).sum() == 20
    assert all(np.isfinite(state.statistics()["mean"]))


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = network(), load_images(pictures(40))
    whole = mine(net, images, k=3, study=tmp_path / "whole", executor="serial", batch_size=8)
    forward = type(net.module).forward
    failures = iter([False, True, False, False, True])

    def short_of_memory(self: nn.Module, image: torch.Tensor) -> Any:
        if len(image) > 3 and next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, image)

    _ = net.layers, net.fingerprint
    monkeypatch.setattr(type(net.module), "forward", short_of_memory)
    monkeypatch.setattr("convscope.mining.mine.calibration", lambda *_: calibrated(whole))
    study = mine(net, images, k=3, study=tmp_path / "short", executor="serial", batch_size=8)
    for layer in study.layers:
        assert (study.state(layer).top.image == whole.state(layer).top.image).all()
        np.testing.assert_allclose(study.state(layer).top.value, whole.state(layer).top.value, rtol=1e-5)
        assert study.state(layer).images == 40


def calibrated(study: Study) -> dict[str, tuple[Any, Any]]:
    """Magnitudes that give the grids of a study again."""
    from convscope.mining.exact import BITS, HEADROOM_BITS, SUM_BITS

    pooled, square = BITS - float(HEADROOM_BITS), SUM_BITS - 2.0 * HEADROOM_BITS
    return {
        layer: (2.0 ** (grid.exponent + pooled), 2.0 ** (grid.square_exponent + square))
        for layer, grid in study.settings.grids.items()
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": {"seed": 1}}, "other weights of Sequential"),
        ({"network": {"mean": 0.5}}, r"another preprocessing: mean was \[0.0, 0.0, 0.0\], now \[0.5, 0.5, 0.5\]"),
        ({"k": 4}, "with k 3, not 4"),
        ({"layers": "*"}, r"with layers 3, not 8 \(1, 3, 4 …\)"),
        ({"batch_size": 4}, "with batch_size 8, not 4"),
    ],
)
def test_another_network_or_other_settings_are_refused_with_the_difference(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    images = load_images(pictures(12))
    mine(network(), images, k=3, study=tmp_path, executor="serial")
    before = saved(Study.open(tmp_path))
    asked = {name: value for name, value in changed.items() if name != "network"}
    with pytest.raises(Refused, match=message):
        mine(network(**changed.get("network", {})), images, study=tmp_path, executor="serial", **asked)
    assert saved(Study.open(tmp_path)) == before


def test_other_images_are_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "a" / "a.png", pictures(1)[0])
    save_png(tmp_path / "b" / "b.png", pictures(1)[0])
    mine(network(), tmp_path / "a", study=tmp_path / "study", executor="serial")
    with pytest.raises(Refused, match="this study is of other images"):
        mine(network(), tmp_path / "b", study=tmp_path / "study", executor="serial")


def test_layers_are_chosen_by_name_and_glob(tmp_path: Path) -> None:
    net, images = network(), pictures(4)
    for number, (asked, chosen) in enumerate([(None, ("0", "2", "7")), (["2", "[01]"], ("0", "1", "2"))]):
        study = mine(net, images, layers=asked, study=tmp_path / str(number), executor="serial")
        assert study.layers == chosen
    with pytest.raises(UnknownName, match="no layer fits 'conv'"):
        mine(net, images, layers="conv", study=tmp_path / "none", executor="serial")
    # A pass that ends before the scores knows no predicted class; one that goes on does.
    early = mine(net, images, layers="0", study=tmp_path / "early", executor="serial")
    assert early.predicted(range(4)) == [-1] * 4
    whole = Study.open(tmp_path / "0")
    scores = every_activation(net, load_images(images), "7")[:, :, 0, 0]
    assert whole.predicted(range(4)) == scores.argmax(1).tolist()


def test_labels_and_fingerprints_of_images_are_kept(tmp_path: Path) -> None:
    for number, name in enumerate(["dog/1.png", "cat/2.png", "dog/3.png"]):
        save_png(tmp_path / "photos" / name, pictures(1, number)[0])
    images = load_images(tmp_path / "photos")
    study = mine(network(), images, study=tmp_path / "study", executor="serial")
    assert study.class_names(range(3)) == [image.label_name for image in images]
    assert [images[i].fingerprint[:32] for i in range(3)] == [study.fingerprint(i) for i in range(3)]
    assert Study.open(tmp_path / "study").location == str(tmp_path / "photos")


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    net = network()
    net.module.train()
    before = {name: value.clone() for name, value in net.module.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    mine(net, pictures(9), layers="*", study=tmp_path, executor="serial")
    assert net.module.training
    assert all(torch.equal(value, before[name]) for name, value in net.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.module.modules())


def test_there_must_be_something_to_read(tmp_path: Path) -> None:
    with pytest.raises(ConvscopeError, match="there is no such folder"):
        Study.open(tmp_path / "nowhere")
    with Store.open(tmp_path / "empty") as store, pytest.raises(ConvscopeError, match="nothing was mined here yet"):
        Study.open(store)
    study = mine(network(), pictures(3), study=tmp_path / "study", executor="serial")
    with pytest.raises(UnknownName, match="'1' wasn't mined"):
        study.state("1")
    with pytest.raises(UnknownName, match="the study has no image 3"):
        study.class_names([3])
    assert len(Shard(0, 2, 5)) == 3


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 1001}, {"shard_size": 8193}, {"batch_size": 5000}])
def test_settings_out_of_range_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    if options == {"k": 0}:
        options = {"k": -1}
    with pytest.raises(ConvscopeError):
        mine(network(), pictures(2), study=tmp_path, executor="serial", **options)  # type: ignore[arg-type]


def test_a_study_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convscope.mining.study.FORMAT", 2)
    mine(network(), pictures(3), study=tmp_path, executor="serial")
    monkeypatch.undo()
    with pytest.raises(ConvscopeError, match=r"a study of format 2; this convscope reads format 1.*upgrade"):
        Study.open(tmp_path)
