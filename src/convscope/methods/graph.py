"""Who depends on whom among a network's calls, read off its layer table: no forward pass is run for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.network.layer import Layer
    from convscope.network.network import Network


def upstream(network: Network, layer: Layer | None = None) -> tuple[Layer, ...]:
    """The calls that a layer's output is made from, itself included, in call order; every call for None.

    Blocks (modules with children) aside: what happens inside them is there call by call.

    >>> from convscope.testing import tiny_network
    >>> network = tiny_network("edges").network()
    >>> [each.address for each in upstream(network, network.layer("relu"))]
    ['convolution', 'relu']
    """
    calls = [each for each in network.layers if each.operation != "block"]
    if layer is None:
        return tuple(calls)
    if layer.operation == "block":
        inside = f"{layer.path}."
        first = min((each.index for each in calls if each.path.startswith(inside)), default=layer.index)
        waiting = [each.address for each in calls if each.path.startswith(inside) and each.index >= first]
        waiting += layer.inputs
    else:
        waiting = [layer.address]
    inputs = {each.address: each.inputs for each in calls}
    found: set[str] = set()
    while waiting:
        address = waiting.pop()
        if address in inputs and address not in found:
            found.add(address)
            waiting += inputs[address]
    return tuple(each for each in calls if each.address in found)


def last_maps(network: Network, layer: Layer | None = None) -> Layer | None:
    """The last maps that everything passes through on its way to a layer (to the network's answer, for None).

    That is the last call whose output has several units and more than one position, and past which no connection
    leads; pooling aside, which only makes maps coarser. In most networks it is what is averaged or flattened at the
    end: the last block's output in a residual network, the last ReLU of a plain one. None where there is no such call.

    >>> from convscope.testing import tiny_network
    >>> last_maps(tiny_network("reused").network()).address
    'relu@2'
    """
    calls = [each for each in upstream(network, layer) if each is not layer]
    if layer is not None and layer.operation == "block":
        inside = f"{layer.path}."
        calls = [each for each in calls if not each.path.startswith(inside)]
    candidates = [each for each in _bottlenecks(network, calls, layer) if each.rows * each.columns > 1]
    chosen = [each for each in candidates if each.units > 1 and "pool" not in each.kind.lower()]
    return chosen[-1] if chosen else None


def last_features(network: Network) -> Layer | None:
    """What the scores are computed from: the input of the last linear layer or convolution; None if that is the image.

    >>> from convscope.testing import tiny_network
    >>> last_features(tiny_network("flattened").network()).address
    'features.3'
    """
    calls = upstream(network)
    by_address = {each.address: each for each in calls}
    last = next((call for call in reversed(calls) if call.kernel is not None), None)
    source = last
    while source is not None and (source is last or "dropout" in source.kind.lower()):  # which does nothing here
        source = by_address.get(source.inputs[0]) if source.inputs else None
    return source if source is not None and not source.opaque else None


def _bottlenecks(network: Network, calls: list[Layer], layer: Layer | None) -> Iterator[Layer]:
    """The calls that no connection leads past: none from before them to after them."""
    index = {each.address: each.index for each in network.layers}
    # A module without children may compute by functions, which are calls of their own: it is one call here.
    leaves = {each.path for each in calls if each.operation == "module"}
    whole = [each for each in calls if not (each.operation == "function" and each.path.rpartition(".")[0] in leaves)]
    past = [0] * (len(network.layers) + 1)
    for call in [*whole, layer] if layer is not None and layer.operation != "block" else whole:
        for source in call.inputs:
            start = index.get(source, -1)  # the image comes before all calls
            if start + 1 < call.index:
                past[start + 1] += 1
                past[call.index] -= 1
    leading_past, count = [], 0
    for change in past:
        count += change
        leading_past.append(count)
    return (each for each in whole if leading_past[each.index] == 0)


__all__ = ["last_features", "last_maps", "upstream"]
