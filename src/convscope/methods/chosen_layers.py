"""Layers as a parameter: some named in a text, or the first and the last features where none are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convscope.errors import ConvscopeError, Refused
from convscope.methods.graph import last_features, last_maps, upstream

if TYPE_CHECKING:
    from convscope.network.layer import Layer
    from convscope.network.network import Network

_NONLINEAR = frozenset("relu relu6 silu gelu hardswish elu leakyrelu leaky_relu prelu mish tanh sigmoid".split())


def chosen_layers(network: Network, text: str, default: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers that a text names, separated by commas; ``default`` for an empty one.

    Raises :class:`UnknownName` for one that isn't there, :class:`Refused` for one without units.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = tuple(dict.fromkeys(network.layer(name) for name in names)) or default
    for layer in found:
        if layer.opaque:
            raise Refused(
                f"{layer.address} has no units: {layer.opaque}", next_step="choose a layer before or after it"
            )
    for name in names:
        if ":" in name:
            raise ConvscopeError(
                f"{name} is a unit, and this looks at whole layers", next_step=f"write {name.partition(':')[0]}"
            )
    if not found:
        raise Refused(
            f"{network.name} has no features between the image and its scores", next_step="name layers by layers="
        )
    return found


def first_and_last(network: Network) -> tuple[Layer, ...]:
    """The first rectified maps, and what the scores are computed from; layers 1 and 7 of Zeiler & Fergus's network.

    >>> from convscope.testing import tiny_network
    >>> [layer.address for layer in first_and_last(tiny_network("in_place").network())]
    ['relu', 'flatten']
    """
    return _different(_first_maps(network), last_features(network))


def last_two(network: Network) -> tuple[Layer, ...]:
    """The last maps, and what the scores are computed from; layers 5 and 7 of Zeiler & Fergus's network.

    >>> from convscope.testing import tiny_network
    >>> [layer.address for layer in last_two(tiny_network("in_place").network())]
    ['relu_function', 'flatten']
    """
    return _different(last_maps(network), last_features(network))


def _first_maps(network: Network) -> Layer | None:
    """What the first layer with weights makes of the image, after the nonlinearity that follows it where one does."""
    calls = upstream(network)
    first = next((index for index, each in enumerate(calls) if each.kernel is not None and not each.opaque), None)
    if first is None:
        return None
    # A normalization may stand between.
    behind = [each for each in calls[first + 1 : first + 3] if each.kind.lower() in _NONLINEAR and not each.opaque]
    return behind[0] if behind and behind[0].output_shape == calls[first].output_shape else calls[first]


def _different(*layers: Layer | None) -> tuple[Layer, ...]:
    return tuple(dict.fromkeys(layer for layer in layers if layer is not None))


__all__ = ["chosen_layers", "first_and_last", "last_two"]
