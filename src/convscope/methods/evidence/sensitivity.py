"""What a map owes to choices that have nothing to do with the network: a random seed, a baseline, a fill."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convscope.methods.attribution.attribution import Attribution

# Parameters that say what stands for "nothing there" (Sturmfels et al. 2020).
_BASELINES = ("baseline", "fill")


def other_choices(method: Attribution, most: int) -> dict[str, Attribution]:
    """The same method with other baselines, fills or noise seeds, ``most`` of them at most.

    Names are what a person reads: "baseline=blur". Empty where the method has no such choice.
    """
    made: dict[str, Attribution] = {}
    for each in method.parameters():
        current = getattr(method, each.name)
        if each.name in _BASELINES:
            for choice in each.choices:
                if choice != current:
                    made[f"{each.name}={choice}"] = replace(method, **{each.name: choice})
        elif each.name == "noise_seed" and getattr(method, "baseline", "noise") == "noise":
            for shift in range(1, most + 1):
                made[f"{each.name}={current + shift}"] = replace(method, **{each.name: current + shift})
    return dict(list(made.items())[:most])
