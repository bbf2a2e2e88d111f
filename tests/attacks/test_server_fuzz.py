"""Whatever is asked, the answer is an answer: no request makes the server stumble (5xx), whatever its words."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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

# What each method is given beside what is thrown at it, so that what is answered is answered soon.
SHORT = {
    "attribution_matrix": {"methods": "gradient", "checks": "0"},
    "correspondence": {"draws": "1"},
    "feature_visualization": {"steps": "1", "ranks": "1"},
    "integrated_gradients": {"steps": "2"},
    "invariance": {"steps": "1"},
    "inversion": {"steps": "1"},
    "occlusion": {"window": "5", "stride": "5"},
    "projections": {"units": "0", "ranks": "1"},
    "sanity_checks": {"stages": "1", "steps": "1", "variants": "0"},
    "smoothgrad": {"samples": "1"},
}
METHODS = method_names()
PARAMETERS = sorted({each.name for name in METHODS for each in method_class(name).parameters()} | {"nonsense"})

addresses = st.one_of(
    st.sampled_from(["", "0", "1", "2", "3", "4", "0:0", "0:3:1,1", "4:2", "0@1", "0@0", "2:1:0,0", "9", "0:99"]),
    st.text(max_size=20),
    st.from_regex(r"[0-9.]{1,4}(@[0-9]{1,2})?(:[0-9]{1,3}(:[0-9]{1,2},[0-9]{1,2})?)?", fullmatch=True),
)
words = st.one_of(
    st.sampled_from(
        (
            "0 1 -1 9 nan inf 1e9 true no weights activations image weight_gradients loss loss:true loss:predicted "
            "loss:2 loss:99 score score:1 score:-1 unit:0 unit:0:1 99999999999999999999999 class:1 class:99 0:1 "
            "0:1+1:2 0:0-0.5*0:1 0@0.3*0 1e400*0:0 0:0*1e39 -0 gradient grad_cam sanity_checks deconvnet,gradient "
            "top_patches weights ../../etc/passwd /etc blur mean jitter:3 jitter:1e9 scale:0 decay:1 decay:nan "
            "tv:1e308 cosine:0 progress:1e99 a:1,1,3,3 a:1,1,3,3/b:9,9,99,99 auto maco lucid natural images norm map"
        ).split()
    ),
    st.text(max_size=12),
    st.text(alphabet='0123456789.:*+-@,/ eainfux()[]{}"', max_size=24),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["steps", "study", "of", "objective", "seed", "window"]), inner, max_size=3
            ),
        ),
        max_leaves=5,
    ).map(json.dumps),
)
queries = st.dictionaries(st.sampled_from(PARAMETERS), words, max_size=2)
images = st.sampled_from(["", "0", "0,0", "1", "7", "-1", "x", ",", "0,"])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True), *head)
    folder = tmp_path_factory.mktemp("fuzz")
    photos = folder / "photos"
    photos.mkdir()
    from PIL import Image

    for number in range(2):
        Image.new("RGB", (12, 9), (number * 90, 40, 200)).save(photos / f"{number}.png")

    def opener():
        return Opened(Network.from_module(module, image_size=10, source="tiny"), load_images(photos), "photos")

    opened = opener()
    mine(opened.network, opened.images, layers="*", k=2, study=folder / "store", executor="serial")
    session = Session(opener, Store.open(folder / "store"), Jobs())
    with TestClient(create_app(session, bundle=Bundle(folder))) as client:
        yield client


relaxed = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(method=st.sampled_from(METHODS), target=addresses, images=images, query=queries)
@example(method="convolution", target="0:1:0,0", images="0", query={"objective": "unit:1:2"})
@example(method="activations", target="1", images="0,0", query={})
@example(method="sanity_checks", target="", images="0", query={"of": "sanity_checks"})
@example(method="sanity_checks", target="", images="0", query={"of_parameters": '{"study": "/etc"}'})
@example(method="sanity_checks", target="", images="0", query={"of_parameters": "[" * 1999})
@example(method="sanity_checks", target="", images="0", query={"of_parameters": '{"a":' * 390})
@example(method="sanity_checks", target="", images="0", query={"of_parameters": '{"reduce": NaN}'})
@example(method="sanity_checks", target="", images="0", query={"of_parameters": '{"reduce": 1e999}'})
@example(method="sanity_checks", target="", images="0", query={"of_parameters": '{"reduce": ' + "9" * 1900 + "}"})
@example(method="gradient", target="", images="0", query={"objective": "unit:" + "0:" * 100})
@example(method="gradient", target="0:1", images="0", query={"objective": "score:1"})
@example(method="feature_visualization", target="", images="0", query={"objective": "+".join(["0:1"] * 400)})
@example(method="feature_visualization", target="", images="0", query={"objective": "(" * 1900})
@example(method="feature_visualization", target="0", images="0", query={"units": ",".join(["0-3"] * 400)})
@example(method="feature_visualization", target="0", images="0", query={"learning_rate": "1e308"})
@example(method="feature_visualization", target="0", images="0", query={"diversity": "1e308", "copies": "2"})
@example(method="feature_visualization", target="0", images="0", query={"steps": "9" * 30})
@example(method="inversion", target="0", images="0", query={"regularizers": "tv:1e308"})
@example(method="occlusion", target="", images="0", query={"window": "9" * 20, "stride": "1"})
@example(method="correspondence", target="", images="0,1", query={"parts": "a:1,1,999999999,9"})
@example(method="attribution_matrix", target="", images="0", query={"methods": "gradient," * 200})
@example(method="attribution_matrix", target="", images="0", query={"classes": "0," * 500})
def test_no_question_makes_the_server_stumble(client, method, target, images, query):
    params = {"target": target, "images": images, **SHORT.get(method, {}), **query}
    answer = client.get(f"/api/views/{method}", params=params)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"what", "where", "next_step", "kind"}


@relaxed
@given(
    target=addresses,
    name=st.one_of(st.from_regex(r"[a-z0-9-]{1,70}", fullmatch=True), st.text(max_size=9)),
    after=words,
)
def test_nothing_about_methods_and_jobs_makes_the_server_stumble(client, target, name, after):
    answer = client.get("/api/methods", params={"target": target})
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert [each["name"] for each in answer.json()["methods"]] == list(METHODS)
    for path in (f"/api/jobs/{quote(name, safe='')}", f"/api/jobs/{quote(name, safe='')}/preview"):
        assert client.get(path, params={"after": after, "opening": after}).status_code < 500


@relaxed
@given(unit=addresses)
def test_no_unit_makes_the_server_stumble(client, unit):
    assert client.get("/api/receptive-field", params={"unit": unit}).status_code < 500


@relaxed
@given(
    body=st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(b"\x89PNG\r\n\x1a\n".__add__)), name=st.text()
)
def test_no_upload_makes_the_server_stumble(client, body, name):
    answer = client.post("/api/images", params={"name": name[:300]}, content=body)
    assert answer.status_code in (415, 422), answer.text


numbers = st.one_of(
    st.sampled_from(["", "0", "0-1", "0,1", "1-0", "0-9999", "9", "-1", "0-", ",", "0,,1", "1e3", "0 ", "٣"]),
    st.text(max_size=8),
)


@relaxed
@given(
    layer=addresses,
    units=numbers,
    ranks=numbers,
    side=words,
    which=st.one_of(st.sampled_from(["top", "bottom", "quantile"]), words),
    mode=st.one_of(st.sampled_from(["crop", "context", "mask"]), words),
    spread=words,
)
@example(layer="0", units="0-3", ranks="0-3", side="16", which="quantile", mode="mask", spread="1")
@example(layer="4", units="0-2", ranks="0", side="512", which="top", mode="context", spread="0")
def test_no_patches_make_the_server_stumble(client, **query):
    answer = client.get("/api/patches", params=query)
    assert answer.status_code < 500, answer.text


# The server's own threads draw from Python's random generator (the type checks do) while bodies are being made.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
@relaxed
@given(
    body=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["layers", "k", "images", "study", "x"]), inner, max_size=4),
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_wish_to_mine_makes_the_server_stumble(client, body):
    answer = client.post("/api/study/mine", content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
