"""Every method over HTTP: what the page needs to know beforehand, the library's own numbers, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import nn

from convscope.images import load_images
from convscope.methods.base import method_class, method_names
from convscope.mining.mine import mine
from convscope.network.network import Network
from convscope.server.app import create_app
from convscope.server.bundle import Bundle
from convscope.server.jobs import Jobs
from convscope.server.session import Opened, Session
from convscope.store import Store
from convscope.view import View

from .conftest import png, tiny_network

# What each method is asked; long ones for as little as they can do.
QUESTIONS = {
    "activation_gradients": ("conv2", "0,1", {"objective": "score:2"}),
    "activations": ("conv2:1", "0", {}),
    "attribution_matrix": ("", "0", {"methods": "gradient,grad_cam", "steps": "2", "top": "2"}),
    "convolution": ("conv2:1:2,3", "1", {}),
    "correspondence": ("", "0,1", {"parts": "left: 1,1,4,4 / right: 9,9,4,4", "draws": "2"}),
    "deconvnet": ("conv2:1", "0,2", {}),
    "feature_visualization": ("conv2:1", "0,1", {"steps": "3"}),
    "grad_cam": ("", "0", {"objective": "score:1"}),
    "gradient": ("", "0,1", {"objective": "score:c"}),
    "guided_backprop": ("conv2:1:2,3", "0", {}),
    "integrated_gradients": ("", "0", {"steps": "10"}),
    "invariance": ("", "0", {"steps": "2"}),
    "inversion": ("conv2", "0", {"steps": "3"}),
    "layerwise_relevance": ("", "0", {}),
    "occlusion": ("conv2:1", "0", {"window": "6", "stride": "5"}),
    "predictions": ("", "0,1,2", {"top": "3"}),
    "projections": ("conv2", "", {"units": "0-2", "ranks": "2"}),
    "sanity_checks": ("", "0", {"stages": "2", "steps": "2", "variants": "0"}),
    "smoothgrad": ("conv2:1", "0", {"samples": "2"}),
    "spatial_gradients": ("conv1", "", {}),
    "top_patches": ("conv2", "", {}),
    "weight_gradients": ("conv2", "0,1", {}),
    "weights": ("conv2:1", "", {"slices": "0"}),
}
MISSING = {"layerwise_relevance": "zennit"}  # an optional package


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    (folder / "photos").mkdir()
    for number in range(6):
        (folder / "photos" / f"{number}.png").write_bytes(png(number, (20, 24)))
    mine(tiny_network(), load_images(folder / "photos"), study=folder / "study", k=3, executor="serial")
    return folder


def serving(network, folder, store="store"):
    images = load_images(folder / "photos")
    session = Session(lambda: Opened(network, images, "photos"), Store.open(folder / store), Jobs())
    return TestClient(create_app(session, bundle=Bundle(folder)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(place):
    with serving(tiny_network(), place, "study") as client:
        yield client


def here(client, target=""):
    answer = client.get("/api/methods", params={"target": target})
    assert answer.status_code == 200, answer.text
    assert answer.json()["target"] == target
    return {each["name"]: each for each in answer.json()["methods"]}


def test_the_table_above_has_every_method():
    assert set(QUESTIONS) == set(method_names())


@pytest.mark.parametrize("name", QUESTIONS)
def test_its_call_is_written_out_before_it_is_computed(place, name):
    pytest.importorskip(MISSING.get(name, "torch"), reason="an optional package")
    target, ids, parameters = QUESTIONS[name]
    question = {"target": target, "images": ids, **parameters}
    with serving(tiny_network(), place, "study") as client:
        answer = client.get(f"/api/calls/{name}", params=question)
        assert answer.status_code == 200, answer.text
        view = client.get(f"/api/views/{name}", params=question)
    meta = View.from_bytes(view.content).meta
    assert answer.json() == {"python": meta["python"], "command": meta["command"]}


def test_a_call_that_can_not_be_made_is_refused_as_its_view_is(client):
    for question in ({"target": "nowhere"}, {"target": "conv2", "nonsense": "1"}, {"target": "conv2", "images": "999"}):
        call, view = (client.get(f"/api/{kind}/activations", params=question) for kind in ("calls", "views"))
        assert (call.status_code, call.json()) == (view.status_code, view.json())
        assert call.status_code >= 400


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_method_shows_over_http_what_the_library_shows(client, place, name):
    pytest.importorskip(MISSING.get(name, "torch"), reason="an optional package")
    target, ids, parameters = QUESTIONS[name]
    answer = client.get(f"/api/views/{name}", params={"target": target, "images": ids, **parameters})
    assert answer.status_code == 200, answer.text
    view = View.from_bytes(answer.content)
    network, images = tiny_network(), load_images(place / "photos")
    given = dict(parameters)
    if any(each.name == "study" for each in method_class(name).parameters()) and not ids:
        given["study"] = str(place / "study")
    chosen = images[[int(each) for each in ids.split(",")]] if ids else None
    direct = method_class(name).make(given).run(network, target, chosen)
    assert view.recipe == direct.recipe
    assert set(view.arrays) == set(direct.arrays)
    for each, array in direct.arrays.items():
        assert view[each].shape == array.shape
        assert np.allclose(view[each], array, rtol=1e-4, atol=1e-5, equal_nan=True), each
    # Nothing of where things lie on the server's disk decides what it is called.
    assert str(place) not in view.recipe.key + str(view.recipe.to_json())
    again = client.get(
        f"/api/views/{name}",
        params={"target": target, "images": ids, **parameters},
        headers={"cache-control": "only-if-cached"},
    )
    if method_class(name).kept:
        assert again.content == answer.content


def test_the_page_can_build_its_forms_and_badges(client):
    methods = {each["name"]: each for each in client.get("/api/session").json()["methods"]}
    assert set(methods) == set(method_names())
    for name, each in methods.items():
        cls = method_class(name)
        assert (each["target"], each["needs"], each["long"]) == (cls.target, list(cls.needs), cls.long)
        assert not any(parameter["name"] == "study" for parameter in each["parameters"])
        assert each["study"] == any(parameter.name == "study" for parameter in cls.parameters())
        assert each["caveat"]
        assert all(parameter["help"] for parameter in each["parameters"])
    assert methods["deconvnet"]["class_sensitive"] is methods["guided_backprop"]["class_sensitive"] is False
    assert methods["gradient"]["class_sensitive"] is methods["grad_cam"]["class_sensitive"] is True
    assert methods["weights"]["class_sensitive"] is None
    assert all(methods[name]["target"] == "objective" for name in ("gradient", "occlusion", "sanity_checks"))
    assert methods["projections"]["study"]
    assert methods["projections"]["needs"] == ["study"]


def test_what_applies_is_told_before_anything_is_computed(client, monkeypatch):
    monkeypatch.setattr("convscope.trace.Trace.run", lambda *_: pytest.fail("it ran the network"))
    for target in ("", "conv2", "conv2:1", "conv2:1:0,0", "fc:2"):
        found = here(client, target)
        assert set(found) == set(method_names())
        assert found["gradient"]["refused"] is found["deconvnet"]["refused"] is None
        assert found["sanity_checks"]["refused"] is None
    assert client.get("/api/methods?target=conv9").status_code == 404
    assert client.get("/api/methods?target=conv2:99").status_code == 404
    assert client.get("/api/methods?target=a b").status_code == 400
    assert client.get("/api/methods?target=" + "x" * 301).status_code == 422


def silu_network():
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU(), head)
    return Network.from_module(module, image_size=16, class_names=list("abcde"), name="silu")


def test_a_network_with_another_activation_is_refused_beforehand_and_with_the_same_reason(place):
    with serving(silu_network(), place) as client:
        whole, early = here(client), here(client, "2:0")
        for name in ("deconvnet", "guided_backprop"):
            refused = whole[name]["refused"]
            assert refused["kind"] == "refused"
            assert "silu" in refused["what"].lower()
            asked = client.get(f"/api/views/{name}?images=0").json()["error"]
            assert asked == refused
            assert early[name]["refused"] is None, "only what lies before the unit counts"
            assert client.get(f"/api/views/{name}?images=0&target=2:0").status_code == 200
        assert whole["gradient"]["refused"] is None
        assert "nothing was mined" in whole["projections"]["refused"]["what"]
        assert "nothing was mined" in whole["top_patches"]["refused"]["what"]


def test_a_package_that_is_missing_is_named_beforehand(client, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "zennit" else find(name, *more)
    )
    monkeypatch.setitem(__import__("sys").modules, "zennit", None)
    refused = here(client)["layerwise_relevance"]["refused"]
    assert "zennit" in refused["what"]
    assert "pip install" in refused["next_step"]


def test_optimized_images_are_shown_beside_the_images_that_are_given_or_the_study(client, place):
    asked = "/api/views/feature_visualization?target=conv2:1&steps=2&ranks=2"
    mined = client.get(asked)
    assert mined.status_code == 200, mined.text
    given = client.get(f"{asked}&images=0,1,2")
    assert given.headers["etag"] != mined.headers["etag"]
    images = [sorted(set(View.from_bytes(each.content)["natural_image"].ravel().tolist())) for each in (mined, given)]
    patches = View.from_bytes(client.get("/api/views/top_patches?target=conv2:1&ranks=2").content)
    assert set(images[0]) == set(patches["image"].ravel().tolist())
    assert set(images[1]) <= {0, 1, 2}
    with serving(tiny_network(), place, "nothing-mined") as bare:
        refused = bare.get(asked)
        assert refused.status_code == 422
        assert "natural" in refused.json()["error"]["what"]
        assert bare.get(f"{asked}&images=0,1").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "activations?target=conv2&images=0,1",
        "activation_gradients?target=conv2&images=0,1",
        "gradient?images=0,1",
        "occlusion?images=0,1&stride=2",
        "sanity_checks?images=0,1",
        "attribution_matrix?images=0,1",
        "invariance?images=0,1",
        "correspondence?images=0,1&parts=left: 1,1,4,4",
        "projections?target=conv2",
    ],
)
def test_a_view_too_large_for_a_page_is_refused_before_it_is_computed(client, monkeypatch, path):
    monkeypatch.setattr("convscope.server.session.VIEW_BYTES", 100)
    monkeypatch.setattr("convscope.methods.backward.backward", lambda *_, **__: pytest.fail("it was computed"))
    answer = client.get(f"/api/views/{path}")
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert "would take" in error["what"]
    assert error["next_step"]


def test_what_a_view_took_is_told_of_the_next(client):
    assert client.get("/api/views/gradient?images=0&objective=score:3").status_code == 200
    found = here(client)["gradient"]["seconds"]
    assert 0 < found < 60


def test_a_study_that_grows_changes_what_depends_on_it_and_nothing_else(tmp_path, place):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(number, (20, 24)))
    asked = {name: f"/api/views/{name}?target=conv2&units=0-1&ranks=2" for name in ("projections",)}
    asked["weights"] = "/api/views/weights?target=conv2"
    network = tiny_network()
    mine(network, load_images(tmp_path / "photos"), study=tmp_path / "study", k=2, executor="serial")
    with serving(network, tmp_path, "study") as client:
        before = {name: client.get(path) for name, path in asked.items()}
        assert all(answer.status_code == 200 for answer in before.values())
        (tmp_path / "photos" / "later.png").write_bytes(png(99, (20, 24)))
    with serving(network, tmp_path, "study") as client:
        known = {"cache-control": "only-if-cached"}
        assert client.get(asked["projections"], headers=known).content == before["projections"].content
        mine(network, load_images(tmp_path / "photos"), study=tmp_path / "study", k=2, executor="serial")
        assert client.get(asked["projections"], headers=known).status_code == 204
        after = client.get(asked["projections"])
        assert after.headers["etag"] != before["projections"].headers["etag"]
        assert client.get(asked["weights"], headers=known).content == before["weights"].content
