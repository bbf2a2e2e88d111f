"""Training over HTTP: what is answered is what the library says, and nothing else on the server waits for it."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch

from convscope.errors import Refused
from convscope.training.definition import Definition
from convscope.training.learner import Learner
from convscope.training.presets import PRESETS
from convscope.training.settings import OPTIMIZERS, Settings
from convscope.training.snapshot import Snapshot
from convscope.training.spelling import LAYERS
from convscope.view import View
from patience import PATIENCE

from .training import BASE, TINY, begin, picture, said, serving, until, write_colors


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return write_colors(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture
def client(tmp_path, colors):
    with serving(tmp_path, colors) as client:
        yield client


def frame(client, run, **query):
    answer = client.get(f"{run}/frame", params=query)
    assert answer.status_code == 200, answer.text
    return View.from_bytes(answer.content)


# ---- what there is -------------------------------------------------------------------------------------------------


def test_what_there_is_to_train(client):
    answer = client.get(BASE).json()
    assert [each["name"] for each in answer["presets"]] == list(PRESETS)
    lenet = next(each for each in answer["presets"] if each["name"] == "lenet5")
    assert lenet["text"] == PRESETS["lenet5"].text
    assert lenet["parameters"] == sum(row["parameters"] for row in lenet["layers"]) == 61706
    assert lenet["settings"] == PRESETS["lenet5"].settings.to_json()
    assert [each["id"] for each in answer["data"]][:2] == ["colors", "mnist"]
    assert {each["name"] for each in answer["settings"]} == set(Settings().to_json())
    assert [each["name"] for each in answer["optimizers"]] == list(OPTIMIZERS)
    assert {each["word"] for each in answer["words"] if each["role"] == "layer"} == set(LAYERS)
    assert (answer["live"], answer["job"], answer["failure"], answer["refused"]) == (None, None, None, "")
    # A preset that needs images which nobody offers says which it would get.
    cifar = next(each for each in answer["presets"] if each["name"] == "resnet")
    assert (cifar["wanted"], cifar["data"]) == ("cifar10", "colors")


def test_a_definition_is_checked_line_by_line(client):
    check = lambda text, **more: client.post(f"{BASE}/definition", json={"text": text, **more}).json()  # noqa: E731
    found = check(TINY)
    assert found["error"] is None
    assert [row["name"] for row in found["layers"]] == [row["name"] for row in Definition.parse(TINY).rows()]
    wrong = check(TINY.replace("size: 2", "size: 99"))
    assert (wrong["error"]["line"], [row["name"] for row in wrong["layers"]]) == (4, ["conv1", "relu1"])
    assert wrong["error"]["next_step"]
    assert check("")["error"]["what"] == "the definition is empty"
    # Against images that were read already.
    begin(client)
    assert check(TINY, data="colors")["error"] is None
    gray = check(TINY.replace("channels: 3", "channels: 4"), data="colors")
    assert "3 channels" in gray["error"]["what"]
    assert "no data" in said(client.post(f"{BASE}/definition", json={"text": TINY, "data": "nowhere"}))


# ---- a run ---------------------------------------------------------------------------------------------------------


def test_a_run_from_its_beginning_to_its_end(client, colors):
    run = begin(client)
    details = client.get(run).json()
    assert (details["state"], details["step"], details["live"], details["resumable"]) == ("paused", 0, True, True)
    assert details["definition"] == Definition.parse(TINY).text()
    assert [layer["name"] for layer in details["layers"]] == ["input", "conv1", "relu1", "pool1", "flatten", "fc1"]
    assert details["class_names"] == ["blue", "red"]
    assert (details["training_images"], details["held_out_images"]) == (24, 10)
    assert client.post(f"{run}/step", json={"count": 3}).json()["step"] == 3
    # The same numbers as the library's own.
    from convscope.training.data import load_data

    settings = Settings(batch_size=4, learning_rate=0.05)
    learner = Learner(Definition.parse(TINY), load_data(colors, size=(8, 8)), settings)
    losses = [learner.step().loss for _ in range(3)]
    curves = {each["name"]: each for each in client.get(f"{run}/curves").json()["curves"]}
    assert (curves["loss"]["steps"], curves["loss"]["values"]) == ([0, 1, 2], losses)
    assert client.post(f"{run}/run", json={"steps": 30}).status_code == 200
    until(lambda: client.get(run).json()["state"] == "finished")
    finished = client.get(run).json()
    assert finished["step"] == finished["statistics"]["step"] == 30
    assert finished["statistics"]["held_out"]["whole"]
    assert client.delete(run).status_code == 204
    closed = client.get(run).json()
    assert (closed["state"], closed["live"], closed["step"], closed["statistics"]) == ("recorded", False, 29, None)
    assert closed["layers"][0]["name"] == "conv1"
    names = {(each["name"], each["layer"]) for each in closed["recorded"]}
    assert {("filters", "conv1"), ("kernels", "fc1"), ("maps", "relu1"), ("images", "")} <= names


def test_a_frame_has_the_gradients_of_the_loss(client):
    run = begin(client)
    view = frame(client, run)
    assert view.kind == "training_frame"
    learner = client.training.live.trainer.learner
    assert view["conv1.kernel"].tobytes() == learner.module.get_parameter("conv1.weight").detach().numpy().tobytes()
    indexes, _ = learner.batches.indexes(0, 4)
    images = learner.batches.images(indexes, learner.settings, 0)
    scores = learner.module(images).flatten(1)
    loss = torch.nn.functional.cross_entropy(scores, learner.data.train.labels[indexes])
    (gradient,) = torch.autograd.grad(loss, learner.module.get_parameter("conv1.weight"))
    assert np.abs(view["conv1.kernel_gradient"] - gradient.numpy()).max() < 1e-7
    assert view.meta["statistics"]["step"] == 0
    assert view.meta["labels"] == learner.data.train.labels[indexes].tolist()
    assert view["input.map"].shape == (1, 3, 8, 8)
    # Only what is asked for.
    part = frame(client, run, layers="conv1,relu1", panels="map,spatial", images=3)
    arrays = {"conv1.map", "relu1.map", "conv1.spatial_row", "conv1.spatial_column", "conv1.spatial_magnitude"}
    assert set(part.arrays) == set(part.axes) == arrays
    assert part["conv1.map"].shape == (3, 4, 8, 8)
    rows, columns = np.gradient(view["conv1.kernel"], axis=(2, 3))
    assert np.allclose(part["conv1.spatial_row"], rows)
    assert np.allclose(part["conv1.spatial_column"], columns)
    assert part.meta["ranges"]["conv1.spatial_row"]["maximum"] == pytest.approx(rows.max())


def test_a_frame_is_sent_once_and_waits_for_the_next(client):
    run = begin(client)
    number = frame(client, run).meta["frame"]
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(client.get(f"{run}/frame", params={"after": number})))
    waiting.start()
    client.post(f"{run}/step")
    waiting.join(PATIENCE)
    assert answers[0].status_code == 200
    fresh = View.from_bytes(answers[0].content)
    assert fresh.meta["step"] == 1
    assert fresh.meta["frame"] == int(answers[0].headers["x-convscope-frame"]) > number
    nothing = client.get(f"{run}/frame", params={"after": fresh.meta["frame"]})
    assert (nothing.status_code, nothing.content) == (204, b"")
    # A number of another server's: whatever there is is news.
    assert client.get(f"{run}/frame", params={"after": 10**9}).status_code == 200


def test_who_waits_for_a_frame_of_a_run_that_gives_way_is_told_that_there_is_none(client):
    run = begin(client)
    live = client.training.live
    after = frame(client, run).meta["frame"]
    answers = []

    def watch():
        answers.append(client.get(f"{run}/frame", params={"after": after}).status_code)

    waiting = [threading.Thread(target=watch) for _ in range(4)]
    for thread in waiting:
        thread.start()
    until(lambda: live._waiting == 4)
    begin(client, name="another", replace=True)
    for thread in waiting:
        thread.join(PATIENCE)
    assert answers == [204] * 4
    # Whoever still has the closed run in hand is refused, with the reason.
    assert client.portal.call(live.frame, 0, (), ("map",), 1) is None
    with pytest.raises(Refused, match="was closed"):
        client.portal.call(live.away, lambda: None)


def test_two_pages_watch_one_run_and_a_slow_one_holds_nobody_up(client):
    run = begin(client)
    client.post(f"{run}/run")
    seen = {"one": [], "other": []}

    def watch(name, layers):
        after = 0
        while len(seen[name]) < 5:
            answer = client.get(f"{run}/frame", params={"after": after, "layers": layers})
            if answer.status_code == 200:
                view = View.from_bytes(answer.content)
                after = view.meta["frame"]
                seen[name].append(view.meta["step"])

    pages = [threading.Thread(target=watch, args=each) for each in (("one", "conv1"), ("other", ""))]
    for page in pages:
        page.start()
    for page in pages:
        page.join(PATIENCE)
    assert all(steps == sorted(set(steps)) and len(steps) == 5 for steps in seen.values())
    # A page that comes late gets the newest, not what it missed.
    before = client.get(run).json()["step"]
    until(lambda: client.get(run).json()["step"] > before + 20)
    late = frame(client, run, after=0)
    until(lambda: frame(client, run).meta["step"] > before)
    assert late.meta["step"] >= seen["one"][-1]
    assert client.post(f"{run}/pause").json()["state"] == "paused"
    step = client.get(run).json()["step"]
    assert frame(client, run).meta["step"] == step


def test_settings_change_while_it_runs(client):
    run = begin(client)
    client.post(f"{run}/run")
    changed = client.post(f"{run}/settings", json={"settings": {"learning_rate": 0.01, "momentum": 0.5}}).json()
    assert {event["name"]: (event["old"], event["new"]) for event in changed["events"]} == {
        "learning_rate": (0.05, 0.01),
        "momentum": (0.9, 0.5),
    }
    assert changed["settings"]["momentum"] == 0.5
    assert "choose 0 to 100" in said(client.post(f"{run}/settings", json={"settings": {"learning_rate": -1}}))
    both = {"settings": {"learning_rate": 0.5, "momentum": 9}}
    assert "momentum" in said(client.post(f"{run}/settings", json=both))
    assert client.get(run).json()["settings"]["learning_rate"] == 0.01  # nothing is half changed
    assert (
        client.post(f"{run}/settings", json={"settings": {"optimizer": "adam"}}).json()["settings"]["momentum"] == 0.5
    )
    client.post(f"{run}/pause")
    client.delete(run)
    events = [event for event in client.get(run).json()["events"] if event["kind"] == "setting"]
    assert [event["name"] for event in events] == ["learning_rate", "momentum", "optimizer", "learning_rate"]


def test_reset_begins_beside_what_was_recorded(client):
    run = begin(client)
    assert client.post(f"{run}/reset").json()["id"] == "tiny"  # it has only begun
    first = frame(client, run)["conv1.kernel"]
    client.post(f"{run}/step", json={"count": 2})
    again = client.post(f"{run}/reset").json()
    assert (again["id"], again["step"], again["resumable"]) == ("tiny-2", 0, True)
    assert frame(client, f"{BASE}/runs/tiny-2")["conv1.kernel"].tobytes() == first.tobytes()
    assert client.get(run).json()["step"] == 1
    client.post(f"{BASE}/runs/tiny-2/step")
    assert client.post(f"{BASE}/runs/tiny-2/reset").json()["id"] == "tiny-3"
    # One that never took a step isn't kept.
    client.delete(f"{BASE}/runs/tiny-3")
    assert {each["id"] for each in client.get(f"{BASE}/runs").json()["runs"]} == {"tiny", "tiny-2"}


def test_one_run_is_open_at_a_time(client):
    run = begin(client)
    client.post(f"{run}/run")
    assert "pause it first" in said(client.post(f"{BASE}/runs", json={"definition": TINY, "data": "colors"}))
    assert client.get(run).json()["state"] == "running"
    assert "pause it first" in said(client.post(f"{run}/step"))
    other = begin(client, name="Other / run", replace=True)
    assert other.endswith("/other-run")
    assert "isn't open" in said(client.get(f"{run}/frame"))
    assert client.get(run).json()["step"] > 0
    assert "no run" in said(client.get(f"{BASE}/runs/nowhere"))
    assert "no run" in said(client.post(f"{BASE}/runs/nowhere/run"))
    # A paused one gives way by itself, and goes on later.
    assert client.post(f"{run}/open").json()["state"] == "paused"
    assert client.get(f"{BASE}/runs").json()["live"] == "tiny"


def test_a_run_goes_on_exactly_where_it_was_closed(client, tmp_path):
    run = begin(client)
    client.post(f"{run}/step", json={"count": 4})
    client.delete(run)
    assert client.post(f"{run}/open").json()["step"] == 4
    client.post(f"{run}/step", json={"count": 3})
    straight = begin(client, name="straight")
    client.post(f"{straight}/step", json={"count": 7})
    one, other = (client.get(f"{each}/snapshot.safetensors").content for each in (run, straight))
    first, second = Snapshot.from_bytes(one), Snapshot.from_bytes(other)
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())
    client.post(f"{run}/open")
    curve = next(each for each in client.get(f"{run}/curves").json()["curves"] if each["name"] == "loss")
    assert curve["steps"] == list(range(7))


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ({}, "choose a preset"),
        ({"preset": "lenett"}, "did you mean lenet5"),
        ({"preset": "resnet"}, "no data 'cifar10'"),
        ({"definition": TINY, "data": "/etc"}, "no data"),
        ({"definition": TINY, "data": "colors", "settings": {"learning_rat": 1}}, "did you mean learning_rate"),
        ({"definition": TINY, "data": "colors", "settings": {"batch_size": 0.5}}, "batch_size"),
        ({"definition": "- relu", "data": "colors"}, "first layer must be input"),
        ({"definition": "x" * 40_000, "data": "colors"}, "at most"),
        ({"definition": TINY, "path": "/etc"}, "Extra inputs"),
        ({"definition": TINY.replace("units: 2}", "units: 2}\n- relu"), "data": "colors"}, ""),
    ],
)
def test_what_cannot_be_trained_is_said(client, body, hint):
    answer = client.post(f"{BASE}/runs", json=body)
    if hint:
        assert hint in said(answer)
        assert client.get(f"{BASE}/runs").json() == {"live": None, "runs": []}


# ---- looking at it -------------------------------------------------------------------------------------------------


def test_held_out_images_and_ones_own(client, colors):
    run = begin(client)
    client.post(f"{run}/run", json={"steps": 200})
    until(lambda: client.get(run).json()["state"] == "finished")
    images = client.get(f"{run}/test", params={"indexes": ",".join(map(str, range(10))), "top": 2}).json()["images"]
    assert [each["label_name"] for each in images] == ["blue"] * 5 + ["red"] * 5
    confusion = client.get(f"{run}/confusion").json()
    assert sum(each["correct"] for each in images) == confusion["confusion"][0][0] + confusion["confusion"][1][1]
    assert confusion["held_out"]["accuracy"] == 1.0
    for each in images:
        assert sum(one["probability"] for one in each["top"]) == pytest.approx(1.0)
        assert each["top"][0]["score"] >= each["top"][1]["score"]
    own = client.post(f"{run}/predict", content=picture(999, red=True), headers={"content-type": "image/png"}).json()
    assert (own["top"][0]["class_name"], own["label"], own["correct"]) == ("red", None, None)
    assert "isn't an image" in said(
        client.post(f"{run}/predict", content=b"{}", headers={"content-type": "application/json"})
    )
    assert client.post(f"{run}/predict", content=b"no picture").status_code == 415
    # The picture is that of the folder, and kept by the browser.
    answer = client.get(f"{run}/images/0")
    from io import BytesIO

    from PIL import Image

    first = sorted((colors / "test" / "blue").glob("*.png"))[0]
    assert np.array_equal(np.asarray(Image.open(BytesIO(answer.content))), np.asarray(Image.open(first)))
    assert client.get(f"{run}/images/0", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert client.get(f"{run}/images/0", params={"part": "training"}).content != answer.content
    assert "choose 0 to 9" in said(client.get(f"{run}/images/10"))
    assert "choose 0 to 9" in said(client.get(f"{run}/test", params={"indexes": "10"}))
    assert "1 to 200" in said(client.get(f"{run}/test", params={"indexes": ",".join(["0"] * 201)}))


def test_the_confusion_matrix_is_of_what_was_looked_at_last(client):
    run = begin(client)
    first = client.get(f"{run}/confusion").json()
    assert (first["held_out"]["step"], first["held_out"]["whole"], np.sum(first["confusion"])) == (0, True, 10)
    client.post(f"{run}/step", json={"count": 5})
    assert client.get(f"{run}/confusion").json()["held_out"]["step"] == 0
    assert client.get(f"{run}/confusion", params={"whole": True}).json()["held_out"]["step"] == 5


def test_the_backward_pass_of_an_image_with_its_terms(client):
    run = begin(client)
    client.post(f"{run}/step", json={"count": 2})
    answer = client.get(f"{run}/backpropagation", params={"index": 3})
    view = View.from_bytes(answer.content)
    number = int(answer.headers["x-convscope-pass"])
    assert view.meta["pass"] == number
    learner = client.training.live.trainer.learner
    image = learner.batches.normalized(learner.data.held_out.images[3:4]).requires_grad_()
    learner.module.eval()
    loss = torch.nn.functional.cross_entropy(learner.module(image).flatten(1), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, image)
    learner.module.train()
    assert view.meta["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert np.allclose(view["conv1.gradient"], gradient[0].numpy(), atol=1e-7)
    # The terms are those of that pass, also after the next step.
    client.post(f"{run}/step", json={"count": 2})
    for of in ("input", "weight"):
        terms = View.from_bytes(
            client.get(f"{run}/backpropagation/{number}", params={"layer": "conv1", "of": of}).content
        )
        total = float(terms["product"].sum()) + terms.meta["left_out"]
        assert total == pytest.approx(terms.meta["gradient"], rel=1e-5)
    place = view.meta["layers"][-1]["strongest"]
    chosen = {"layer": "conv1", "place": ",".join(map(str, place))}
    assert View.from_bytes(client.get(f"{run}/backpropagation/{number}", params=chosen).content).meta["place"] == place
    losses = View.from_bytes(client.get(f"{run}/backpropagation", params={"index": 3, "part": "loss"}).content)
    assert losses.kind == "loss_terms"
    other = View.from_bytes(client.get(f"{run}/backpropagation", params={"index": 3, "label": 1}).content)
    assert other.meta["label"] == 1
    assert "choose 0 to 9" in said(client.get(f"{run}/backpropagation", params={"index": 10}))
    assert "no class 7" in said(client.get(f"{run}/backpropagation", params={"index": 0, "label": 7}))
    assert "ask for it again" in said(client.get(f"{run}/backpropagation/0", params={"layer": "conv1"}))
    wrong = {"layer": "relu1", "of": "weight"}
    assert "has no weights" in said(client.get(f"{run}/backpropagation/{number}", params=wrong))
    for place in ("1", "9,9,9", "a", "1,2,3,4,5"):
        assert said(client.get(f"{run}/backpropagation/{number}", params={"layer": "conv1", "place": place}))


def test_recorded_views_and_steps(client):
    run = begin(client)
    client.post(f"{run}/step", json={"count": 3})
    steps = {"layer": "conv1"}
    until(lambda: client.get(f"{run}/steps/kernels", params=steps).json()["steps"] == [0, 1, 2])
    for live in (True, False):
        answer = client.get(f"{run}/views/kernels", params={"layer": "conv1", "step": 2})
        view = View.from_bytes(answer.content)
        assert view.kind == "kernels"
        assert view.recipe.parameters["step"] == 2
        again = client.get(
            f"{run}/views/kernels",
            params={"layer": "conv1", "step": 2},
            headers={"if-none-match": answer.headers["etag"]},
        )
        assert (again.status_code, again.content) == (304, b"")
        assert "nearest step is 2" in said(client.get(f"{run}/views/kernels", params={"layer": "conv1", "step": 7}))
        assert said(client.get(f"{run}/views/nothing", params={"layer": "conv1", "step": 0}))
        assert client.get(f"{run}/steps/nothing").json()["steps"] == []
        images = View.from_bytes(client.get(f"{run}/views/images", params={"step": 0}).content)
        assert images["picture"].shape == (2, 8, 8, 3)  # the first of each class
        if live:
            client.delete(run)


def test_numbers_that_run_away_stay_answers(client):
    run = begin(client, settings={"batch_size": 4, "learning_rate": 100.0, "momentum": 0.99, "weight_decay": 10.0})
    client.post(f"{run}/run", json={"steps": 300})
    until(lambda: client.get(run).json()["state"] in ("finished", "failed"))
    details = client.get(run).json()
    assert "not_finite" in [event["kind"] for event in details["events"]]
    for path in ("", "/curves", "/confusion", "/test", "/frame", "/backpropagation?index=0", "/snapshot.safetensors"):
        assert client.get(f"{run}{path}").status_code == 200, path
    view = frame(client, run)
    assert view.meta["ranges"]["conv1.kernel"]["nan"] > 0
    client.delete(run)
    assert client.get(run).status_code == client.get(f"{run}/curves").status_code == 200


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_goes_down_and_up_again(client):
    run = begin(client)
    client.post(f"{run}/step", json={"count": 3})
    answer = client.get(f"{run}/snapshot.safetensors")
    assert answer.headers["content-disposition"] == 'attachment; filename="tiny.safetensors"'
    sent = client.post(f"{BASE}/snapshots", params={"name": "../<b>my run"}, content=answer.content)
    assert sent.status_code == 201
    assert (sent.json()["run"]["id"], sent.json()["run"]["step"]) == ("b-my-run", 3)
    closed = client.get(f"{run}/snapshot.safetensors").content
    assert closed == answer.content  # of a run that isn't open, the last one
    # Of other images it keeps the weights, and counts from the beginning.
    other = Snapshot.from_bytes(answer.content)
    changed = dataclasses.replace(other, data={**other.data, "fingerprint": "0" * 64, "source": "/etc"})
    assert "aren't offered here" in said(client.post(f"{BASE}/snapshots", content=changed.to_bytes()))
    again = client.post(f"{BASE}/snapshots", params={"data": "colors"}, content=changed.to_bytes()).json()
    assert (again["run"]["step"], len(again["notes"])) == (0, 1)
    kernel = frame(client, f"{BASE}/runs/{again['run']['id']}")["conv1.kernel"]
    assert kernel.tobytes() == other.weights["conv1.weight"].numpy().tobytes()


def test_convnetjs_files_go_down_and_up_again(client):
    text = TINY.replace("channels: 3", "channels: 3, mean: 0.5, std: 1.0")
    run = begin(client, definition=text)
    client.post(f"{run}/step")
    kernel = frame(client, run)["conv1.kernel"]
    answer = client.get(f"{run}/snapshot.convnetjs.json")
    assert json.loads(answer.content)["layers"][0]["layer_type"] == "input"
    sent = client.post(f"{BASE}/snapshots", params={"data": "colors"}, content=answer.content)
    assert sent.status_code == 201
    other = frame(client, f"{BASE}/runs/{sent.json()['run']['id']}")["conv1.kernel"]
    assert other.tobytes() == kernel.tobytes()
    plain = begin(client, name="plain")
    assert "mean: 0.5" in said(client.get(f"{plain}/snapshot.convnetjs.json"))


# ---- races ---------------------------------------------------------------------------------------------------------


def test_a_race_of_optimizers_on_the_same_batches(client):
    assert client.get(f"{BASE}/race").json()["state"] == "none"
    assert "there is no race" in said(client.post(f"{BASE}/race/run"))
    body = {
        "definition": TINY,
        "data": "colors",
        "settings": {"batch_size": 4},
        "racers": {"slow": {"learning_rate": 0.001}, "adam": {"optimizer": "adam"}},
        "steps": 20,
    }
    assert client.post(f"{BASE}/race", json=body).status_code == 201
    until(lambda: client.get(f"{BASE}/race").json()["state"] == "finished")
    race = client.get(f"{BASE}/race").json()
    assert (race["step"], race["steps"], race["network"]) == (20, 20, "network")
    slow, adam = race["racers"]
    assert (slow["settings"]["learning_rate"], adam["settings"]["optimizer"]) == (0.001, "adam")
    losses = [next(c["values"] for c in each["curves"] if c["name"] == "loss") for each in (slow, adam)]
    assert losses[0][0] == losses[1][0]  # the same weights on the same images
    assert losses[0][-1] != losses[1][-1]
    client.post(f"{BASE}/race", json={**body, "steps": 10_000_000})
    assert client.post(f"{BASE}/race/pause").json()["state"] == "paused"
    step = client.get(f"{BASE}/race").json()["step"]
    assert client.post(f"{BASE}/race/run").json()["state"] == "running"
    until(lambda: client.get(f"{BASE}/race").json()["step"] > step)
    # A run trains beside it.
    run = begin(client)
    assert client.post(f"{run}/step").json()["step"] == 1
    assert client.delete(f"{BASE}/race").status_code == 204
    assert client.get(f"{BASE}/race").json()["racers"] == []
    other = {**body, "racers": {"a": {"batch_size": 2}, "b": {}}}
    assert "the same batch_size" in said(client.post(f"{BASE}/race", json=other))
    assert client.post(f"{BASE}/race", json={**body, "racers": {}}).status_code == 422
    assert client.post(f"{BASE}/race", json={**body, "racers": {str(i): {} for i in range(13)}}).status_code == 422
