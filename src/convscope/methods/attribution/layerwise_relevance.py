"""Layer-wise relevance propagation: a score is handed back layer by layer until the pixels hold it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch

from convscope.errors import ConvscopeError, Refused
from convscope.methods.attribution.attribution import AXES, Attributed, Attribution, Told, nobody, places
from convscope.methods.attribution.relevance_rules import COMPOSITES, composite_of, plan, twin, without_remainder
from convscope.methods.base import Target, parameter
from convscope.methods.objective import Objective
from convscope.methods.ranges import to_array
from convscope.trace import Trace
from convscope.trace.relevance import RelevanceFlow

if TYPE_CHECKING:
    from convscope.methods.attribution.relevance_rules import Plan
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network


@dataclass(frozen=True)
class LayerwiseRelevance(Attribution):
    """How a class score (or a unit's value) is made up of the pixels: it is handed back from layer to layer, each
    value passing its relevance on to what it was summed up from, by a rule for each kind of layer (``composite``).
    Needs the extra ``relevance`` (zennit, whose rules for convolutions and linear layers these are).

    Skip connections, averages and scalings share relevance in proportion; nonlinearities pass it on; max pooling gives
    it to the largest; batch normalization is first merged into the layer before it where nothing else reads that
    layer. All of it happens on a copy that shares the weights' values.

    Arrays: ``attribution`` [image, channel, row, column], each value's relevance, in objective; ``map``
    [image, row, column], its channels reduced; ``conservation`` [image], the sum of all relevance at the pixels divided
    by what was handed back: 1 where nothing was lost in biases (or added by negative ones), NaN where there was nothing
    to hand back; ``picture`` [image, row, column, color]; ``place`` [image, coordinate], -1 where there is no one.

    Misleads when: the rule is forgotten. Rules are chosen because their maps look right, and other rules give other
    maps of the same network; those that keep only the positive parts (``plus``, and less so alpha-beta) differ little
    between classes, and the less the deeper the network. That the sum is conserved says nothing about where it went.
    """

    name: ClassVar[str] = "layerwise_relevance"
    title: ClassVar[str] = "Layer-wise relevance"
    papers: ClassVar[tuple[str, ...]] = (
        "bach2015pixel",
        "montavon2019layerwise",
        "anders2021software",
        "sixt2020explanations",
    )
    formula: ClassVar[str] = (
        "R[i] = Σ over j of part[i, j] / (Σ over k of part[k, j]) · R[j];  part[i, j] = a[i] · w[i, j], by the rule"
    )
    caveat: ClassVar[str] = (
        "Another rule, another map. Rules that keep the positive parts alone differ little between classes."
    )

    composite: str = parameter(
        "epsilon_plus_flat",
        "rules by kind of layer: epsilon for linear layers; z+, gamma or alpha2-beta1 for convolutions; flat (every "
        "pixel alike) or box (between black and white) for the first",
        choices=tuple(COMPOSITES),
    )
    epsilon: float = parameter(1e-6, "of the epsilon rule: more of it keeps the largest parts alone", minimum=1e-9)
    gamma: float = parameter(0.25, "of the gamma rule: how much positive weights are favored", minimum=0.0)

    biases: bool = parameter(True, "whether biases take their share of the relevance, as published; else the inputs do")

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:
        """Zennit is missing, a loss was asked for, or a call has no rule."""
        if find_spec("zennit") is None:  # not imported for an answer like this: that takes seconds
            return _missing("isn't installed")
        try:
            self._check_objective()
            plan(network, self._layer(network, target), self.composite)
        except ConvscopeError as refused:
            return refused
        return None

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """One pass backwards, rule by rule, on a copy of the network."""
        check_zennit()
        self._check_objective()
        found = plan(network, bound.layer, self.composite)
        measured = bound.measure(network, batch)
        relevance, handed, values = self._propagate(network, bound.fixed(measured.choice), batch, found)
        scale = float(measured.values.abs().max()) if len(measured.values) else 0.0
        if not torch.allclose(values, measured.values, rtol=1e-3, atol=1e-3 * scale + 1e-9, equal_nan=True):
            raise Refused(
                "the copy that relevance is propagated on doesn't compute what the network does: its hooks, or a batch "
                "normalization merged into another layer, have changed it",
                next_step="use another method, such as the gradient",
            )
        told(1, 1)
        arrived = relevance.double().sum(dim=(1, 2, 3)).cpu()
        conserved = torch.where(handed == 0, torch.nan, arrived / torch.where(handed == 0, 1.0, handed))
        return Attributed(
            relevance.to("cpu", torch.float32),
            measured.values.double().tolist(),
            measured.labels,
            {"conservation": to_array(conserved), "place": places(measured.choice, len(batch))},
            {"conservation": ("image",), "place": AXES["place"]},
            (*_warnings(found), *self._lost(conserved)),
            {
                "composite": self.composite,
                "rules": dict(found.rules),
                "merged": [norm for _, norm in found.merged],
                "passed": list(found.passed),
            },
        )

    def _propagate(
        self, network: Network, bound: BoundSeed, batch: Batch, found: Plan
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Relevance of the pixels, what was handed back per image, and the values as the copy computes them."""
        module = twin(network.module)
        composite = composite_of(found, network, epsilon=self.epsilon, gamma=self.gamma, biases=self.biases)
        with composite.context(module), Trace(module, bound.layers, gradients=True) as trace:
            without_remainder(module, found)
            with RelevanceFlow():
                output = trace.run(batch.tensor, stop=not bound.needs_output)
                values, _ = bound.values(network, trace, output, batch)
            start = bound.maps(trace, batch) if bound.layer is not None else values
            handed = _handed(bound, start, values)
            relevance = trace.gradients((handed * start).sum(), ["input"])["input"]
        return relevance, handed.double().reshape(len(handed), -1).sum(dim=1).cpu(), values.detach()

    def _lost(self, conserved: torch.Tensor) -> tuple[str, ...]:
        shares = conserved[torch.isfinite(conserved)]
        low, high = (float(shares.min()), float(shares.max())) if len(shares) else (1.0, 1.0)
        if low >= 0.5 and high <= 2:
            return ()
        told = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
        why = "biases have the rest" if self.biases else "the rest came to values that no input speaks for"
        return (f"At the pixels, {told} of what was handed back is left: {why}.",)

    def _check_objective(self) -> None:
        objective = Objective.parse(self.objective)
        if objective.kind in ("loss", "function"):
            raise Refused(
                "relevance is a share of a score or of a unit's value; a loss isn't made up of parts",
                next_step="use score, score:CLASS, or a unit",
            )

    def _layer(self, network: Network, target: Target) -> Layer | None:
        if target.layer is not None:
            return target.layer
        objective = Objective.parse(self.objective)
        return network.layer(objective.of) if objective.kind == "unit" else None


def _handed(bound: BoundSeed, start: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The relevance to begin with, where it begins: the value itself at its place; of a map, the map or its share."""
    if bound.layer is None:
        return start.detach()
    places_ = bound.choice.places if bound.choice is not None else None
    if places_ is None:
        return start.detach() / (start[0].numel() if bound.seed == "mean" else 1)
    handed = torch.zeros_like(start)
    row, column = places_.to(start.device).unbind(dim=1)
    handed[torch.arange(len(start), device=start.device), row, column] = values.detach()
    return handed


def _warnings(found: Plan) -> tuple[str, ...]:
    if not found.passed:
        return ()
    count = len(found.passed)
    return (
        f"{count} batch normalization{'s' if count > 1 else ''} ({found.passed[0]}{' …' if count > 1 else ''}) can't be"
        " merged into a layer before; relevance passes as it is, whatever they shift.",
    )


def check_zennit() -> None:
    """Import zennit; raises :class:`Refused`, with what to install, where that fails."""
    try:
        import zennit.rules  # noqa: F401
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises the latter
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "zennit"
        raise _missing("isn't installed" if missing else f"can't be imported: {error}") from error


def _missing(reason: str) -> Refused:
    return Refused(
        f"layer-wise relevance propagation takes its rules from zennit, which {reason}",
        next_step="pip install 'convscope[relevance]'",
    )


__all__ = ["LayerwiseRelevance", "check_zennit"]
