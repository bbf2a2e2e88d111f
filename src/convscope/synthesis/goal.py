"""Goal: what an ascent raises, one number for each image; and what a forward pass gives it to compute that from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from convscope.network.network import Network
    from convscope.trace import Trace


class Captured:
    """What one forward pass recorded: layers by their address, and the class scores where it ran to its end."""

    def __init__(self, network: Network, trace: Trace, output: Any = None) -> None:
        self._network = network
        self._trace = trace
        self._output = output

    def __getitem__(self, address: str) -> Tensor:
        """A layer's output as ``[image, unit, row, column]``, attached to the graph; at least in single precision."""
        found = self._network.layer(address).to_units(self._trace[address])
        return found.float() if found.element_size() < 4 else found

    @property
    def scores(self) -> Tensor:
        """Class scores ``[image, class]``."""
        found = self._network.scores(self._output)
        return found.float() if found.element_size() < 4 else found


@runtime_checkable
class Goal(Protocol):
    """One objective for each image of a batch."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Addresses of the calls that a forward pass must record; it stops at the last of them."""
        ...

    @property
    def needs_output(self) -> bool:
        """Whether the forward pass must run to its end."""
        ...

    @property
    def group(self) -> int:
        """How many images in a row belong together: a mini-batch never separates them."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def values(self, captured: Captured) -> Tensor:
        """What is to be raised, ``[image]``. An image's value depends on the images of its group alone."""
        ...

    def part(self, indices: Sequence[int]) -> Goal:
        """The same for some of the images."""
        ...


__all__ = ["Captured", "Goal"]
