"""Feature visualization: what it asks for, measures, shows beside it, and says."""

import numpy as np
import pytest
import torch
from torch import nn

from convscope import Network, mine
from convscope.errors import Cancelled, ConvscopeError, Refused, UnknownName
from convscope.images import load_images
from convscope.methods.base import method_class
from convscope.methods.ranges import view_bytes
from convscope.progress import watch
from convscope.synthesis.natural import TILE
from convscope.testing import tiny_network

METHOD = "feature_visualization"
QUICK = {"steps": 2, "preset": "pixels"}


@pytest.fixture
def network():
    return tiny_network("in_place").network()


@pytest.fixture(scope="module")
def images():
    return tiny_network("in_place").images(5).sigmoid()


def unit_maps(network, images, layer="second"):
    with network.trace([layer]) as trace:
        trace.run(images)
        return network.layer(layer).to_units(trace[layer])


def test_without_anything_natural_it_is_refused(network):
    with pytest.raises(Refused, match="beside natural ones only") as caught:
        network.view(METHOD, "second:1")
    assert "images=" in caught.value.next_step
    assert "study=" in caught.value.next_step


def test_many_units_of_a_layer_have_an_image_each(network, images):
    view = network.view(METHOD, "second", images, units="0-2,5", **QUICK)
    assert view.meta["names"] == ["second:0", "second:1", "second:2", "second:5"]
    assert view.meta["units"] == [0, 1, 2, 5]
    assert view.meta["layer"] == "second"
    rows, columns = network.image_size
    assert view["picture"].shape == (4, rows, columns, 3)
    assert view["history"].shape == (4, 2)
    alone = network.view(METHOD, "second:2", images, **QUICK)
    assert np.abs(view["picture"][2].astype(int) - alone["picture"][0]).max() <= 1


def test_the_score_is_the_networks_answer_to_the_picture_as_it_is_saved(network, images):
    view = network.view(METHOD, "second", images, units="0-2", **QUICK)
    for unit in range(3):
        prepared = network.prepare(view["picture"][unit])
        assert torch.equal(prepared[0], torch.from_numpy(view["image"][unit]))
        maps = unit_maps(network, prepared)[0, unit]
        assert view["score"][unit] == pytest.approx(float(maps.max()), rel=1e-5)
        assert view["value"][unit] == pytest.approx(float(torch.where(maps < 0, maps / 10, maps).mean()), rel=1e-4)
        place = int(maps.argmax())
        at = (np.array([each]) for each in (unit, place // maps.shape[1], place % maps.shape[1]))
        assert np.array_equal(view["box"][unit], network.boxes("second", *at)[0])


def test_natural_images_are_those_with_the_largest_maximum(network, images):
    view = network.view(METHOD, "second", images, units="0-3", ranks=3, **QUICK)
    maxima = unit_maps(network, images).amax((2, 3)).numpy()
    for unit in range(4):
        order = np.argsort(-maxima[:, unit], kind="stable")[:3]
        assert view["natural_image"][unit].tolist() == order.tolist()
        assert view["natural_value"][unit] == pytest.approx(maxima[order, unit], rel=1e-5)
    assert view["natural_score"] == pytest.approx(view["natural_value"][:, 0])
    assert view["natural_picture"].shape == (4, 3, TILE, TILE, 3)
    assert view.meta["natural_source"] == "the best of 5 images"


@pytest.fixture(scope="module")
def pictures(images):
    network = tiny_network("in_place").network()
    return load_images([network.unprepare(each) for each in images])


@pytest.fixture(scope="module")
def study(pictures, tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    mine(tiny_network("in_place").network(), pictures, layers="*", k=3, study=place, executor="serial")
    return place


def test_with_a_study_the_natural_patches_are_its_top_patches(network, study):
    top = network.view("top_patches", "second", study=study)
    view = network.view(METHOD, "second", study=study, units="1,4", ranks=2, **QUICK)
    assert np.array_equal(view["natural_value"], top["value"][[1, 4], :2])
    assert np.array_equal(view["natural_image"], top["image"][[1, 4], :2])
    assert np.array_equal(view["natural_box"], top["box"][[1, 4], :2])


def test_its_recipe_holds_what_was_mined_and_no_folder(network, study):
    method = method_class(METHOD).make({"study": study})
    recipe = method.recipe(network, "second:1")
    assert str(study) not in str(recipe.to_json())
    assert recipe.parameters["study"]
    assert recipe.key != method_class(METHOD).make({"study": study}).recipe(network, "first:1").key
    assert method_class(METHOD).make({}).recipe(network, "second:1").parameters["study"] == ""


def test_a_study_does_not_know_what_pleases_a_sum(network, study):
    with pytest.raises(Refused, match="which images excite a unit"):
        network.view(METHOD, study=study, objective="second:1 + second:2", **QUICK)
    other = tiny_network("branches").network()
    layer = next(each.address for each in other.layers if each.units)
    with pytest.raises(Refused, match="another network"):
        other.view(METHOD, f"{layer}:0", study=study, **QUICK)


def test_a_neuron_of_a_study_says_that_the_patches_are_from_anywhere(network, study):
    view = network.view(METHOD, "second:1:0,0", study=study, **QUICK)
    assert any("not at the one position" in warning for warning in view.meta["warnings"])


@pytest.mark.parametrize("objective", ["class:1", "first:1 + 0.5*second:2", "second", "direction(second:1 - second:2)"])
def test_other_objectives_are_measured_on_whole_images(network, images, objective):
    view = network.view(METHOD, objective=objective, images=images, **QUICK)
    assert view.meta["names"] == [objective]
    assert view.meta["units"] == [-1]
    assert view["natural_box"][0, 0].tolist() == [0, 0, *network.image_size]
    if objective == "class:1":
        scores = network.module(images)[:, 1].detach().numpy()
        assert view["natural_score"][0] == pytest.approx(scores.max(), rel=1e-5)


def test_objectives_of_several_layers_go_in_one_batch(network, images):
    view = network.view(METHOD, objective="first:1; second:2:0,1; class:3", images=images, **QUICK)
    assert view.meta["names"] == ["first:1", "second:2:0,1", "class:3"]
    assert len(view["picture"]) == 3
    assert view["score"][1] == pytest.approx(view["value"][1])


def test_copies_differ_and_stand_beside_the_same_natural_images(network, images):
    view = network.view(METHOD, "second:1", images, copies=3, diversity=1.0, **QUICK)
    assert view.meta["copy"] == [0, 1, 2]
    assert view.meta["names"] == ["second:1"] * 3
    assert not np.array_equal(view["picture"][0], view["picture"][1])
    assert np.array_equal(view["natural_picture"][0], view["natural_picture"][2])


@pytest.mark.parametrize("where", ["images", "study"])
def test_it_may_start_from_the_best_natural_image(network, images, pictures, study, where):
    given = {"images": images} if where == "images" else {"study": study, "images": pictures}
    view = network.view(METHOD, "second:1", start="natural", steps=1, preset="pixels", learning_rate=1e-6, **given)
    best = network.unprepare(images[int(view["natural_image"][0, 0])])
    assert np.abs(view["picture"][0].astype(int) - best).max() <= 1


def test_maco_measures_its_spectrum_and_says_what_mattered(network, images):
    view = network.view(METHOD, "second:1", images, steps=2, preset="maco")
    assert view["importance"].shape == view["picture"].shape[:3]
    assert view["importance"].max() > 0
    assert view["image"].shape[2:] == network.image_size
    prepared = torch.from_numpy(view["image"])
    assert view["score"][0] == pytest.approx(float(unit_maps(network, prepared)[0, 1].max()), rel=1e-5)


def test_it_stops_when_it_is_good_enough(network, images):
    view = network.view(METHOD, "second:1", images, until=1e-6, steps=20, preset="pixels", learning_rate=8.0)
    assert view.meta["steps"][0] in (8, 16)
    assert np.isnan(view["history"][0, view.meta["steps"][0] :]).all()


def test_what_excites_less_than_a_photo_is_said(network, images):
    view = network.view(METHOD, "second:1", images * 3, steps=1, preset="pixels")
    assert view["score"][0] < view["natural_score"][0]
    assert any("less by the optimized image" in warning for warning in view.meta["warnings"])


def test_an_image_below_the_best_photo_goes_on_until_it_is_above(network, images):
    asked = {"units": "0-5", "steps": 3, "learning_rate": 0.12}
    alone = network.view(METHOD, "second", images, further=0, **asked)
    view = network.view(METHOD, "second", images, further=100, **asked)
    below = alone["score"] < alone["natural_score"]
    assert below.any()
    assert alone.meta["further_steps"] == [0] * 6
    assert [steps > 0 for steps in view.meta["further_steps"]] == below.tolist()
    assert (view["score"] > view["natural_score"]).all()
    # Those that were above already are as they were, and so is every image's way there.
    np.testing.assert_array_equal(view["picture"][~below], alone["picture"][~below])
    np.testing.assert_array_equal(view["history"], alone["history"])
    assert any("raised on from there" in warning for warning in view.meta["warnings"])
    assert "below the best natural image up to 300 more" in view.meta["caption"]


@pytest.mark.parametrize("where", ["images", "study", "study without its pictures"])
def test_what_noise_does_not_lead_to_begins_again_from_the_photo(tmp_path, where):
    layer = nn.Conv2d(3, 1, 3)
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = 1 / 27, -0.85  # open on nearly white only
    network = Network.from_module(nn.Sequential(layer, nn.ReLU()), image_size=(8, 11))
    photos = load_images([np.full((8, 11, 3), level, np.uint8) for level in (40, 230, 128)])
    given = photos
    study = tmp_path / "study" if "study" in where else ""
    if study:
        mine(network, photos, layers="*", k=2, study=study, executor="serial")
        # From here on in memory alone, or not at all.
        given = photos if where == "study" else None
    asked = {"units": "0", "steps": 1, "study": study}
    view = network.view(METHOD, "1", given, further=8, **asked)
    alone = network.view(METHOD, "1", given, further=0, **asked)
    assert (alone.meta["from_natural"], alone["score"][0]) == ([], 0)
    if given is None:
        assert (view.meta["from_natural"], view["score"][0]) == ([], 0)
        assert any("couldn't begin again from its best natural image" in warning for warning in view.meta["warnings"])
        return
    assert view.meta["from_natural"] == [0]
    assert view["natural_image"][0, 0] == 1
    assert view["score"][0] > view["natural_score"][0] > 0.04
    assert any("begun from that image" in warning for warning in view.meta["warnings"])


def test_going_on_never_makes_an_image_worse(network, images):
    asked = {"units": "0-5", "steps": 1}
    alone = network.view(METHOD, "second", images * 3, further=0, **asked)
    view = network.view(METHOD, "second", images * 3, further=2, **asked)
    assert (view["score"] >= alone["score"]).all()
    assert (view["score"] < view["natural_score"]).any()  # out of reach: these photos are whiter than white


@pytest.mark.parametrize("preset", ["lucid", "maco", "yosinski_1", "pixels"])
def test_a_published_recipe_does_not_go_on_by_itself(network, images, preset):
    view = network.view(METHOD, "second", images * 3, units="0-1", steps=1, preset=preset)
    assert view.meta["further_steps"] == [0, 0]


def test_a_dead_unit_is_said_to_be(images):
    layer = nn.Conv2d(3, 2, 3)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.bias[1] = -1
    network = Network.from_module(nn.Sequential(layer, nn.ReLU()), image_size=(8, 11))
    view = network.view(METHOD, "1:1", images, **QUICK)
    assert any("it is dead, or nearly" in warning for warning in view.meta["warnings"])
    assert view["score"].tolist() == [0]


def test_previews_have_the_arrays_of_the_end(network, images):
    for preset in ("default", "maco"):
        shown = []
        with watch(lambda _progress: None, previews=shown.append):
            view = network.view(METHOD, "second", images, units="0-1", steps=2, preset=preset)
        assert {name: array.shape for name, array in shown[0].arrays.items()} == {
            name: array.shape for name, array in view.arrays.items()
        }
        assert shown[0].axes == view.axes
        assert set(shown[0].meta) <= set(view.meta)


def test_progress_is_by_steps_and_can_be_cancelled(network, images):
    seen = []

    def listen(progress):
        seen.append(progress)
        if progress.message.startswith("optimizing") and progress.done == 1:
            watcher.cancel.set()

    with watch(listen) as watcher, pytest.raises(Cancelled):
        network.view(METHOD, "second", images, units="0-1", steps=40, preset="pixels")
    assert seen[-1].message == "optimizing 2 images"
    assert (seen[-1].done, seen[-1].total) == (1, 40)


@pytest.mark.parametrize(
    ("target", "parameters", "kind", "said"),
    [
        ("second:1", {"objective": "second:2"}, ConvscopeError, "there are two objectives"),
        ("", {}, ConvscopeError, "nothing to please was named"),
        ("second:1", {"units": "0-3"}, ConvscopeError, "units are those of a layer"),
        ("", {"objective": "class:1", "units": "0-3"}, ConvscopeError, "units are those of a layer"),
        ("second", {"units": "0-99"}, UnknownName, "no units 0-99"),
        (
            "second",
            {"units": "0-5", "copies": 16, "diversity": 1.0, "preset": "nothing"},
            ConvscopeError,
            "isn't one of",
        ),
        ("", {"objective": "; ".join(["second:1"] * 300)}, Refused, "300 images at once"),
        ("second:1", {"transforms": "shake:3"}, ConvscopeError, "isn't a transform"),
        ("second:1", {"regularizers": "decay:0.1", "preset": "lucid"}, ConvscopeError, "parameterization"),
        ("second:1", {"start": "natural", "preset": "maco"}, ConvscopeError, "maco can't begin with an image"),
    ],
)
def test_what_does_not_fit_is_refused(network, images, target, parameters, kind, said):
    with pytest.raises(kind, match=said):
        network.view(METHOD, target, images, **parameters)


def test_more_than_memory_holds_is_refused_before_anything_is_computed(network, images):
    with view_bytes(20_000), pytest.raises(Refused, match=r"optimizing 6 images of .* would take"):
        network.view(METHOD, "second", images, units="0-5", **QUICK)
    with view_bytes(20_000), pytest.raises(Refused, match="inverting 5 images"):
        network.view("inversion", "second", images, steps=1)
