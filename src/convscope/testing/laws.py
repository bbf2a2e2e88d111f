"""The laws every method keeps, whoever wrote it. Each is a function; the first one broken raises with its name."""

# ruff: noqa: S101, PT017
# A law is an assertion, here as in a test.

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.progress import watch
from convscope.testing.networks import TINY_NETWORKS
from convscope.view import View, canonical_json

if TYPE_CHECKING:
    from convscope.methods.base import Method
    from convscope.network.network import Network
    from convscope.view import Array


class _Injected(RuntimeError):
    """Raised inside a forward pass, as a broken module would."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A method, a network, what to look at, and prepared images ``[image, channel, row, column]``."""

    method: Method
    network: Network
    target: str
    images: torch.Tensor | None

    def run(self, images: torch.Tensor | None = None) -> View:
        """The method on these images, or on all of the subject's."""
        return self.method.run(self.network, self.target, self.images if images is None else images)


Law = Callable[[Subject], None]
LAWS: dict[str, Law] = {}


def _law(function: Law) -> Law:
    LAWS[function.__name__.replace("_", " ")] = function
    return function


def check_method(
    method: Method, network: Network, target: str = "", images: torch.Tensor | None = None, *, laws: Any = None
) -> None:
    """Hold a method to every law (or to the named ``laws``); raises AssertionError that starts with the broken law's
    name.

    ``images`` should be two or more where the method takes several. The network is changed for a while (training flags,
    gradients) and given back as it was.
    """
    subject = Subject(method, network, target, images)
    for name in laws or LAWS:
        try:
            LAWS[name](subject)
        except AssertionError as error:
            raise AssertionError(f"{name}: {method.name} on {target or network.name}: {error}") from error


def check_on_tiny_networks(method: Method) -> int:
    """Hold a method to every law on every tiny network and several targets of each; returns how many it looked at.

    Between them: 1, 3, 4 and 6 channels, inputs that aren't square, in-place, functional and reused ReLU, dictionaries
    and tuples of outputs. A refusal is an answer where it says why and what to do instead.
    """
    looked_at = 0
    for tiny in TINY_NETWORKS.values():
        network = tiny.network()
        for target in targets(method, network):
            if accepts(Subject(method, network, target, tiny.images(3))):
                check_method(method, network, target, tiny.images(3))
                looked_at += 1
            elif accepts(Subject(method, network, target, tiny.images(1))):
                check_method(method, network, target, tiny.images(1))
                looked_at += 1
    return looked_at


def accepts(subject: Subject) -> bool:
    """Whether the method has an answer; a refusal must give its reason and the next step."""
    try:
        subject.run()
    except Refused as refusal:
        assert refusal.what, "a refusal gives its reason"
        assert refusal.next_step, f"the refusal {refusal.what!r} says what to do instead"
        return False
    return True


def targets(method: Method, network: Network) -> Iterator[str]:
    """Every layer of a network, a unit and a neuron in the middle of each: whatever the method can look at."""
    if method.target in ("network", "objective"):
        yield ""
    if method.target == "network":
        return
    for layer in network.layers:
        if method.target == "layer":
            yield layer.address
        if layer.units:
            unit = f"{layer.address}:{layer.units - 1}"
            yield from (unit, f"{unit}:{layer.rows // 2},{layer.columns - 1}")


@_law
def the_network_is_left_as_it_was_found(subject: Subject) -> None:
    """Weights, buffers, gradients, requires_grad, training flags, hooks, random states, torch's modes."""
    with _unusual_state(subject.network.module):
        before = state_of(subject.network.module)
        subject.run()
        check_same_state(before, state_of(subject.network.module))


@_law
def the_network_is_left_as_it_was_found_after_an_exception(subject: Subject) -> None:
    """The same when a module in the middle of the forward pass raises."""
    called = [layer.path for layer in subject.network.layers if layer.operation == "module"] or [""]
    for path in {called[0], called[-1]}:
        with _unusual_state(subject.network.module):
            handle = subject.network.module.get_submodule(path).register_forward_hook(_raise)
            try:
                before = state_of(subject.network.module)
                with suppress(_Injected):
                    subject.run()
                check_same_state(before, state_of(subject.network.module))
            finally:
                handle.remove()
    assert not _differences(subject.run(), subject.run()), (
        "after an exception the method no longer gives the same numbers"
    )


@_law
def cancelling_stops_it_and_leaves_the_network_as_it_was(subject: Subject) -> None:
    """A method that runs images reports progress, which is where it can be stopped."""
    if "images" not in subject.method.needs:
        return
    cancel = threading.Event()
    cancel.set()
    with _unusual_state(subject.network.module):
        before = state_of(subject.network.module)
        with watch(lambda _progress: None, cancel):
            try:
                subject.run()
            except Cancelled:
                pass
            else:
                raise AssertionError("it ran to its end although it was cancelled: it never reports")
        check_same_state(before, state_of(subject.network.module))


@_law
def the_same_seed_gives_the_same_bytes(subject: Subject) -> None:
    """Whatever the random states are outside."""
    with _kept_random_states():
        torch.manual_seed(1)
        first = subject.run().to_bytes()
        torch.manual_seed(2)
        assert subject.run().to_bytes() == first, "two runs gave different bytes"


@_law
def an_images_numbers_do_not_depend_on_the_others(subject: Subject) -> None:
    """Arrays with an image axis: images one by one, put together, are the batch (but for ``relative_to_batch``)."""
    if subject.images is None or len(subject.images) < 2:
        return
    together = subject.run()
    relative = together.meta.get("relative_to_batch", ())
    names = [name for name, axes in together.axes.items() if axes[:1] == ("image",) and name not in relative]
    if not names:
        return
    alone = [subject.run(subject.images[index : index + 1]) for index in range(len(subject.images))]
    for name in names:
        joined = np.concatenate([view[name] for view in alone])
        _close(name, together[name], joined)


@_law
def parameters_survive_json(subject: Subject) -> None:
    """As numbers and as text: a link, a file and a command line hold them."""
    if not subject.method.cacheable:
        return
    values = json.loads(json.dumps(subject.method.values(), allow_nan=False))
    assert type(subject.method).make(values) == subject.method, f"{values} make another method"
    as_text = {name: str(value) for name, value in values.items()}
    assert type(subject.method).make(as_text) == subject.method, f"{as_text} make another method"


@_law
def the_view_survives_its_bytes(subject: Subject) -> None:
    """Arrays, axes, meta and recipe come back; the bytes again are the same."""
    view = subject.run()
    blob = view.to_bytes()
    back = View.from_bytes(blob)
    assert back.kind == view.kind, "another kind came back"
    assert not _differences(view, back), f"{_differences(view, back)} changed"
    assert dict(back.axes) == dict(view.axes), "other axes came back"
    assert canonical_json(dict(back.meta)) == canonical_json(dict(view.meta)), "other meta came back"
    assert back.recipe == view.recipe, "another recipe came back"
    assert back.to_bytes() == blob, "the bytes changed"


@_law
def the_view_says_what_it_shows(subject: Subject) -> None:
    """A caption, warnings, the layer and units, how to get it again, and true ranges that hold every value shown."""
    view = subject.run()
    for name in ("caption", "python"):
        assert isinstance(view.meta.get(name), str), f"meta has no {name}"
        assert view.meta[name], f"the {name} is empty"
    for name in ("layer", "units", "command"):
        assert name in view.meta, f"meta has no {name}"
    assert all(isinstance(warning, str) for warning in view.meta["warnings"]), "a warning isn't text"
    for name, array in view.arrays.items():
        allowed = (np.float32, np.int32, np.uint8)  # uint8 holds pictures
        assert array.dtype in allowed, f"{name} is {array.dtype}, not float32, int32 or uint8"
        if array.dtype == np.float32:
            _within(name, array, view.meta["ranges"][name])


@_law
def the_view_does_not_change_with_the_network(subject: Subject) -> None:
    """No array shares memory with a weight: what was kept stays as it was when training goes on."""
    view = subject.run()
    for name, array in view.arrays.items():
        for path, parameter in subject.network.module.named_parameters():
            if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
                shared = np.shares_memory(array, parameter.detach().numpy())
                assert not shared, f"{name} shares memory with {path}"


@_law
def an_unknown_target_is_refused_with_a_next_step(subject: Subject) -> None:
    """No bare KeyError or IndexError reaches the user."""
    if subject.method.target == "network":
        return
    for target in ("no.such.layer:0", f"{subject.target.split(':')[0]}:999999"):
        try:
            subject.method.run(subject.network, target, subject.images)
        except ConvscopeError as error:
            assert error.next_step, f"the error for {target} gives no next step"
        else:
            raise AssertionError(f"{target} was accepted")


# ---- what the laws compare -------------------------------------------------------------------------------------------


def _raise(*_arguments: Any) -> None:
    raise _Injected


@contextmanager
def _unusual_state(module: nn.Module) -> Iterator[None]:
    """Training flags that differ, gradients that are there, a parameter that is frozen, a hook of the user's own."""
    parameters = list(module.parameters())
    flags = [(each, each.training) for each in module.modules()]
    gradients = [(each, each.grad, each.requires_grad) for each in parameters]
    handle = module.register_forward_hook(lambda *_arguments: None)
    try:
        for index, (each, _) in enumerate(flags):
            each.training = index % 2 == 0
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
        for parameter in parameters[:1]:
            parameter.requires_grad_(False)
        yield
    finally:
        handle.remove()
        for each, training in flags:
            each.training = training
        for parameter, gradient, required in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(required)


@contextmanager
def _kept_random_states() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything a method could leave changed, as values that compare."""
    hooks = {
        f"{path or 'the module'}'s {name}": sorted(getattr(each, name))
        for path, each in module.named_modules()
        for name in vars(each)
        if name.endswith("_hooks")
    }
    tensors = {**dict(module.named_parameters()), **{f"buffer {name}": each for name, each in module.named_buffers()}}
    return {
        **hooks,
        **{name: _digest(each) for name, each in tensors.items()},
        **{f"identity of {name}": id(each) for name, each in tensors.items()},
        **{f"gradient of {name}": _digest(each.grad) for name, each in module.named_parameters()},
        **{f"requires_grad of {name}": each.requires_grad for name, each in tensors.items()},
        **{f"training of {path}": each.training for path, each in module.named_modules()},
        **{f"attributes of {path}": sorted(vars(each)) for path, each in module.named_modules()},
        "torch's random state": _digest(torch.get_rng_state()),
        "numpy's random state": repr(np.random.get_state()),
        # Checking types at run time draws from Python's random numbers itself.
        "Python's random state": None if "beartype" in sys.modules else random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default type": torch.get_default_dtype(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
    }


def _digest(tensor: torch.Tensor | None) -> str | None:
    """What stands for a tensor's very bytes: a large network's state is compared, not copied."""
    if tensor is None:
        return None
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(plain.view(torch.uint8).numpy().data if plain.numel() else b"").hexdigest()


def check_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise AssertionError that names what differs between two results of :func:`state_of`."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    assert not changed, f"it changed {', '.join(changed[:5])}"


def _differences(one: View, other: View) -> list[str]:
    names = {*one.arrays, *other.arrays}
    return [
        name
        for name in sorted(names)
        if name not in one.arrays
        or name not in other.arrays
        or one[name].dtype != other[name].dtype
        or one[name].shape != other[name].shape
        or one[name].tobytes() != other[name].tobytes()
    ]


def _close(name: str, together: Array, alone: Array) -> None:
    assert together.shape == alone.shape, f"{name} is {together.shape} together, {alone.shape} one by one"
    if together.dtype.kind != "f":
        assert np.array_equal(together, alone), f"{name} differs one by one"
        return
    scale = float(np.abs(together[np.isfinite(together)]).max(initial=0.0))
    same = np.isclose(together, alone, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
    assert same.all(), f"{name} differs by up to {np.nanmax(np.abs(together - alone)):.3g} one by one"


def _within(name: str, array: Array, stated: dict[str, Any]) -> None:
    values = array[np.isfinite(array)]
    if not values.size:
        return
    assert stated["minimum"] is not None, f"{name} holds numbers but its range is empty"
    margin = 1e-6 * max(abs(stated["minimum"]), abs(stated["maximum"]))
    assert stated["minimum"] - margin <= values.min(), f"{name} goes below its stated minimum"
    assert values.max() <= stated["maximum"] + margin, f"{name} goes above its stated maximum"
