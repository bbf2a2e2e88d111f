"""Settings: how a network is trained; every one can be changed while it runs, and each change is an event."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEDULES = ("constant", "one_cycle")
FILLS = ("mean", "edge")
LARGEST_BATCH = 65_536


@dataclass(frozen=True)
class Optimizer:
    """One optimizer: its name, which settings it has a use for, and a learning rate to start with."""

    name: str
    title: str
    uses: tuple[str, ...]
    learning_rate: float
    papers: tuple[str, ...] = ()


OPTIMIZERS: dict[str, Optimizer] = {
    each.name: each
    for each in (
        Optimizer("sgd", "Stochastic gradient descent", ("momentum", "nesterov"), 0.01, ("sutskever2013importance",)),
        Optimizer("adagrad", "Adagrad", (), 0.01, ("duchi2011adaptive",)),
        Optimizer("adadelta", "Adadelta", (), 1.0, ("zeiler2012adadelta",)),
        Optimizer("rmsprop", "RMSprop", ("momentum",), 0.001),
        Optimizer("adam", "Adam", ("momentum",), 0.001, ("kingma2015adam",)),
        Optimizer("adamw", "AdamW", ("momentum",), 0.001, ("loshchilov2019decoupled",)),
    )
}
_SOME_USE = {"momentum": "sgd, rmsprop, adam or adamw", "nesterov": "sgd"}


@dataclass(frozen=True)
class Settings:
    """How to train. Frozen: :meth:`changed` gives others, checked.

    ``batch_size`` is what stochastic (1), mini-batch and batch gradient descent (0: the whole training set) differ in.
    ``momentum`` is β₁ of Adam and AdamW. ``weight_decay`` is λ₂ of the penalty λ₂/2 · Σ w² and ``l1`` is λ₁ of
    λ₁ · Σ |w|, over kernels and not over biases or normalizations; AdamW takes weight decay off the weights directly.
    ``dropout`` takes the place of every dropout layer's own probability; None leaves them. ``shift`` moves each
    training image by up to so many pixels each way, ``flip`` mirrors every other one; what comes in from outside is the
    mean ("mean") or the nearest pixel ("edge"). ``schedule`` "one_cycle" raises the learning rate over the first
    quarter of ``epochs`` and lowers it to nearly nothing by their end; "constant" leaves it.

    >>> Settings().changed({"learning_rate": "0.1"}).learning_rate
    0.1
    >>> Settings(optimizer="adadelta").changed({"momentum": 0.5})
    Traceback (most recent call last):
    convscope.errors.Refused: adadelta has no momentum. Next: choose sgd, rmsprop, adam or adamw to have one.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0
    batch_size: int = 32
    dropout: float | None = None
    shift: int = 0
    flip: bool = False
    fill: str = "mean"
    schedule: str = "constant"
    epochs: float = 10.0

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, _checked(each.name, getattr(self, each.name)))
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0):
            object.__setattr__(self, "nesterov", False)

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """Other settings; text is converted. Refuses what the optimizer has no use for, and unknown names.

        A new optimizer brings its own learning rate unless one is given with it.
        """
        known = {each.name: each for each in fields(self)}
        given: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                hint = suggest(name, known) or f"there are {', '.join(known)}"
                raise UnknownName(f"no setting {name[:40]!r}", next_step=hint)
            given[name] = _checked(name, _converted(name, value))
        optimizer = OPTIMIZERS.get(given.get("optimizer", self.optimizer))
        if optimizer is not None:
            for name, others in _SOME_USE.items():
                if given.get(name) and name not in optimizer.uses:
                    raise Refused(f"{optimizer.name} has no {name}", next_step=f"choose {others} to have one")
            if optimizer.name != self.optimizer:
                given.setdefault("learning_rate", optimizer.learning_rate)
        if given.get("nesterov") and not given.get("momentum", self.momentum) > 0:
            raise Refused("Nesterov's momentum needs momentum", next_step="set momentum above 0 as well")
        return replace(self, **given)

    def differences(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """Every setting that differs: its name, and both values."""
        pairs = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_json`; raises for anything else."""
        names = {each.name for each in fields(cls)}
        if not isinstance(value, dict) or not set(value) <= names:
            raise ConvscopeError("these aren't training settings", next_step="write them anew")
        return cls(**{name: _checked(name, each) for name, each in value.items()})

    def rate(self, examples: int, epoch_size: int) -> float:
        """The learning rate once ``examples`` were seen.

        >>> settings = Settings(learning_rate=1.0, schedule="one_cycle", epochs=4.0)
        >>> [round(settings.rate(100 * epoch, 100), 3) for epoch in (0, 1, 2, 4, 5)]
        [0.1, 1.0, 0.67, 0.01, 0.01]
        """
        if self.schedule == "constant":
            return self.learning_rate
        done = min(1.0, examples / max(1.0, self.epochs * epoch_size))
        if done < _PEAK:
            return self.learning_rate * (0.1 + 0.9 * done / _PEAK)
        return self.learning_rate * (1.0 - 0.99 * (done - _PEAK) / (1.0 - _PEAK))


_PEAK = 0.25
_EXPLANATIONS = {
    "optimizer": "how a step follows from the gradient",
    "learning_rate": "how far a step goes",
    "momentum": "how much of the last step goes on; β₁ of Adam and AdamW",
    "nesterov": "look ahead along the momentum",
    "weight_decay": "λ₂ of the penalty λ₂/2 · Σ w² on kernels",
    "l1": "λ₁ of the penalty λ₁ · Σ |w| on kernels",
    "batch_size": "images in a step: 1 is stochastic, 0 the whole training set, anything between mini-batch descent",
    "dropout": "the probability of every dropout layer, in place of its own",
    "shift": "each training image is moved by up to so many pixels each way",
    "flip": "every other training image is mirrored",
    "fill": "what comes in from outside a shifted image: the mean, or the nearest pixel",
    "schedule": "one_cycle raises and lowers the learning rate over the epochs; constant leaves it",
    "epochs": "how many epochs the schedule one_cycle takes",
}
_RANGES: dict[str, tuple[float, float]] = {
    "learning_rate": (0.0, 100.0),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 10.0),
    "l1": (0.0, 10.0),
    "batch_size": (0, LARGEST_BATCH),
    "dropout": (0.0, 0.99),
    "shift": (0, 64),
    "epochs": (0.01, 100_000.0),
}


_WORDS: dict[str, tuple[str, ...]] = {"optimizer": tuple(OPTIMIZERS), "schedule": SCHEDULES, "fill": FILLS}
_TRUTHS = ("nesterov", "flip")
_WHOLE = ("batch_size", "shift")


def describe() -> list[dict[str, Any]]:
    """Every setting as plain values: name, kind, default, what it may be, and who has a use for it.

    >>> [each["name"] for each in describe()][:3], describe()[1]["maximum"]
    (['optimizer', 'learning_rate', 'momentum'], 100.0)
    """
    found = []
    for each in fields(Settings):
        name = each.name
        low, high = _RANGES.get(name, (None, None))
        kind = "word" if name in _WORDS else "truth" if name in _TRUTHS else "whole" if name in _WHOLE else "number"
        users = [user.name for user in OPTIMIZERS.values() if name not in _SOME_USE or name in user.uses]
        found.append(
            {
                "name": name,
                "kind": kind,
                "default": each.default,
                "minimum": low,
                "maximum": high,
                "choices": list(_WORDS.get(name, ())),
                "optional": name == "dropout",
                "optimizers": users,
                "explanation": _EXPLANATIONS[name],
            }
        )
    return found


def _checked(name: str, value: Any) -> Any:
    """A setting's value in its own type; raises with what is allowed."""
    if name in _WORDS:
        if value not in _WORDS[name]:
            hint = suggest(str(value)[:40], _WORDS[name]) or f"choose {', '.join(_WORDS[name])}"
            raise UnknownName(f"no {name} {str(value)[:40]!r}", where="settings", next_step=hint)
        return value
    if name in _TRUTHS:
        if not isinstance(value, bool):
            raise ConvscopeError(f"{name} must be true or false", where="settings", next_step="write true or false")
        return value
    if name == "dropout" and value is None:
        return None
    low, high = _RANGES[name]
    wanted = int if name in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high:
        raise ConvscopeError(
            f"{name} can't be {str(value)[:40]}", where="settings", next_step=f"choose {low:g} to {high:g}"
        )
    return int(value) if name in _WHOLE else float(value)


def _converted(name: str, value: Any) -> Any:
    """Text as it comes from a shell or a form, in the setting's own type."""
    if not isinstance(value, str) or name in _WORDS:
        return value
    text = value.strip().lower()
    if name in _TRUTHS:
        if text not in ("true", "false"):
            raise ConvscopeError(f"{name} can't be {value[:40]!r}", where="settings", next_step="write true or false")
        return text == "true"
    if name == "dropout" and text in ("", "none"):
        return None
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError as error:
        raise ConvscopeError(f"{name} can't be {value[:40]!r}", where="settings", next_step="write a number") from error


__all__ = ["OPTIMIZERS", "Optimizer", "Settings", "describe"]
