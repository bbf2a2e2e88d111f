"""Trace: what happened during one forward pass, call by call. The only file that registers hooks or enters torch modes.

A trace names *calls*, not modules: the second call of a reused module is ``relu@1``, and a functional operation has
the path of the module that calls it plus its own name (``layer1.0.add``). It leaves the module as it found it: hooks,
training flags, buffers, random state, gradients and ``requires_grad``, also after an exception.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.trace.call import Call, Observer, Operation, first_tensor, function_name, is_call
from convscope.trace.entrance import Entrance, EntranceMode
from convscope.trace.kept import Kept
from convscope.trace.module_state import evaluation_mode
from convscope.trace.normalization import NormalizationMode
from convscope.trace.pooling import PoolingMode
from convscope.trace.relu_rule import ReluRule, RuleMode
from convscope.trace.upstream import check_relu_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType


KERNEL_FUNCTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"})
# Functions that return tensors but compute nothing a person would call a layer.
_SILENT = frozenset({"requires_grad_", "detach", "numpy", "tolist", "item", "size", "stride", "is_floating_point"})


class _Stop(Exception):
    """Ends the forward pass once everything asked for is captured."""


class _Overwritten(Exception):
    """A tensor that was kept by reference was written to later."""


class Trace:
    """Record calls of one forward pass and, if asked, gradients with respect to what they returned.

    >>> module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    >>> with Trace(module, ["0"], gradients=True) as trace:
    ...     scores = trace.run(torch.ones(1, 1, 5, 5), stop=False)
    ...     gradient = trace.gradients(scores.sum(), ["0"])["0"]
    >>> trace["0"].shape, gradient.shape
    (torch.Size([1, 2, 3, 3]), torch.Size([1, 2, 3, 3]))

    ``layers`` are call addresses. ``inputs`` also keeps what the kernel of each convolution or linear call was applied
    to. ``relu_rule`` replaces the backward pass of every ReLU, in whichever way the network spells it; where something
    else rectifies between the images and what is differentiated, or nothing does, ``gradients`` refuses.
    ``overwritten`` names the calls whose output something later writes over in place; only these are cloned. Leave it
    None to clone everything. A name missing from it is noticed and answered by a second run, never by a wrong value.
    ``consume`` is handed each call's address and output as soon as it is there, in place of keeping it: then any number
    of layers takes no more memory than the largest of them. It must neither keep nor change the tensor.
    ``entrance`` keeps what comes back to convolutions of the images themselves: gradients at "input" are without it.
    ``frozen`` says that nobody will ask autograd for gradients of parameters, which makes passes faster.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Iterable[str] = (),
        *,
        gradients: bool = False,
        inputs: bool = False,
        relu_rule: ReluRule | None = None,
        overwritten: frozenset[str] | None = None,
        observer: Observer | None = None,
        consume: Callable[[str, Tensor], None] | None = None,
        entrance: Entrance | None = None,
        frozen: bool = False,
    ) -> None:
        self.module = module
        self.layers = tuple(dict.fromkeys(layers))
        self._with_gradients = gradients
        self._with_inputs = inputs
        self._relu_rule = relu_rule
        self._overwritten = overwritten
        self._observer = observer
        self._consume = consume
        self._entrance = entrance
        self._frozen = frozen
        self._kept: dict[str, Kept] = {}
        self._inputs: dict[str, Kept] = {}
        self._image: Tensor | None = None
        self._block: ExitStack | None = None

    # ---- the block ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Trace:
        # Torch's modes hold for the whole block: the scalar whose gradient is asked for is made by the caller.
        self._block = ExitStack()
        self._block.enter_context(torch.inference_mode(False))
        self._block.enter_context(torch.set_grad_enabled(self._with_gradients))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        # Values stay readable after the block; the graph that gradients need does not stay alive with them.
        if self._block is not None:
            self._block.close()
        self._block = None
        for kept in (*self._kept.values(), *self._inputs.values()):
            kept.release()
        self._image = None

    def run(self, images: Tensor, *, stop: bool | None = None) -> Any:
        """One forward pass in evaluation mode; what the module returned, or None when it was stopped early.

        ``stop`` ends the pass after the last layer asked for; by default it does so unless gradients are wanted.
        """
        if self._block is None:
            raise ConvscopeError(
                "a Trace runs inside its with block", next_step="write `with network.trace(…) as trace:`"
            )
        stop = (not self._with_gradients) if stop is None else stop
        try:
            return self._forward(images, stop, clone_all=self._overwritten is None)
        except _Overwritten:
            return self._forward(images, stop, clone_all=True)

    def __getitem__(self, address: str) -> Tensor:
        return self._found(self._kept, address).value

    def __contains__(self, address: str) -> bool:
        return address in self._kept

    def input(self, address: str) -> Tensor:
        """What the kernel of a convolution or linear call was applied to (padding of its own already added)."""
        return self._found(self._inputs, address).value

    def gradients(self, scalar: Tensor, layers: Sequence[str], *, again: bool = True) -> dict[str, Tensor]:
        """The gradient of a scalar with respect to each call's output, shaped like it; zeros where independent.

        The address "input" stands for the images. ``again=False`` lets go of the graph on the way: it takes less
        memory, but no further gradients can be asked for.
        """
        if self._block is None:
            raise ConvscopeError("gradients are gone once the block has ended", next_step="ask inside the with block")
        if self._relu_rule in ("deconvnet", "guided") and self._image is not None:
            check_relu_rule(self._relu_rule, scalar, self._image)
        if not scalar.requires_grad:
            return {name: torch.zeros_like(self._value(name)) for name in layers}
        places: list[Any] = []
        for name in layers:
            kept = None if name == "input" else self._found(self._kept, name)
            places.append(self._image if kept is None else kept.place())
        constant = [isinstance(place, Tensor) and not place.requires_grad for place in places]
        wanted = [place for place, fixed in zip(places, constant, strict=True) if not fixed]
        found = iter(_gradients(scalar, wanted, again))
        result: dict[str, Tensor] = {}
        for name, fixed in zip(layers, constant, strict=True):
            gradient = None if fixed else next(found)
            if gradient is None:
                result[name] = torch.zeros_like(self._value(name))
            else:
                result[name] = (gradient if name == "input" else self._kept[name].part(gradient)).detach()
        return result

    @cached_property
    def paths(self) -> dict[nn.Module, str]:
        """Each module's dotted path; the same for all passes of a trace."""
        return {module: path for path, module in self.module.named_modules()}

    # ---- one forward pass --------------------------------------------------------------------------------------

    def _forward(self, images: Tensor, stop: bool, *, clone_all: bool) -> Any:
        self._kept.clear()
        self._inputs.clear()
        recorder = _Recorder(self, stop=stop, clone_all=clone_all)
        with ExitStack() as stack:
            stack.callback(evaluation_mode(self.module))
            image = images.clone() if images.is_inference() else images
            # A detached alias asks for the gradient, so that the caller's tensor never does.
            self._image = image.detach().requires_grad_(True) if self._with_gradients else image
            recorder.attach(stack)
            _seed(self._image)
            try:
                output = self.module(self._image)
            except _Stop:
                output = None
        if any(kept.lost for kept in recorder.all_kept()):
            raise _Overwritten
        missing = [name for name in self.layers if name in recorder.waiting]
        if missing:
            raise UnknownName(
                f"the forward pass made no call {missing[0]!r}",
                next_step=suggest(missing[0], recorder.counts) or "list the calls with `convscope layers`",
            )
        return output

    def _value(self, name: str) -> Tensor:
        return self._image if name == "input" and self._image is not None else self[name]

    def _found(self, kept: dict[str, Kept], address: str) -> Kept:
        if address not in kept:
            held = f"this trace holds {', '.join(kept)}" if kept else "run the images through it: trace.run(images)"
            raise UnknownName(f"{address!r} wasn't recorded", next_step=held)
        return kept[address]


def _seed(image: Tensor) -> None:
    """Whatever a module draws at random, it draws the same each time."""
    if image.is_cpu and not torch.cuda.is_initialized():
        # torch's own function also writes the whole stack down for each kind of device that isn't there: milliseconds.
        torch.default_generator.manual_seed(0)
    else:
        torch.manual_seed(0)


def _gradients(scalar: Tensor, places: list[Any], again: bool) -> tuple[Tensor | None, ...]:
    if not places:
        return ()
    try:
        return torch.autograd.grad(scalar, places, allow_unused=True, retain_graph=again)
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise Refused(
            "an in-place operation of this network destroys a value that its gradient needs: it has none",
            next_step="replace the in-place operation (such as += after relu_) in the network's code",
        ) from error


class _Recorder:
    """The state of one forward pass: which calls have begun, what has been captured."""

    def __init__(self, trace: Trace, *, stop: bool, clone_all: bool) -> None:
        self.trace = trace
        self.stop = stop
        self.clone_all = clone_all
        self.counts: Counter[str] = Counter()
        self.stack: list[Call] = []
        self.order = 0
        self.waiting = set(trace.layers)
        self.paths = trace.paths

    def all_kept(self) -> list[Kept]:
        return [*self.trace._kept.values(), *self.trace._inputs.values()]

    def attach(self, stack: ExitStack) -> None:
        """Hooks on the modules asked for; on all of them, and modes, when functional operations matter."""
        trace = self.trace
        known = set(self.paths.values())
        functional = any(re.sub(r"@\d+$", "", name) not in known for name in trace.layers)
        everything = functional or trace._with_inputs or trace._observer is not None
        wanted = {re.sub(r"@\d+$", "", name) for name in trace.layers}
        for module, path in self.paths.items():
            if path and (everything or path in wanted):
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self._after)
                stack.callback(after.remove)
        if trace._observer is not None:
            stack.enter_context(_ElementaryMode(trace._observer))
        else:
            stack.enter_context(NormalizationMode(frozen=trace._frozen))
            if trace._image is not None and trace._image.is_cpu:
                stack.enter_context(PoolingMode())
        if trace._relu_rule is not None:
            # Below the recorder's own mode, which then sees a ruled ReLU as the call that it is.
            stack.enter_context(RuleMode(trace._relu_rule))
        if trace._entrance is not None and trace._image is not None:
            stack.enter_context(EntranceMode(trace._entrance, trace._image))
        if everything:
            stack.enter_context(_FunctionMode(self))

    # ---- modules -----------------------------------------------------------------------------------------------

    def _begin(
        self,
        path: str,
        kind: str,
        operation: Operation,
        module: nn.Module | None,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> Call:
        index = self.counts[path]
        self.counts[path] += 1
        address = f"{path}@{index}" if index else path
        call = Call(self.order, address, path, index, kind, operation, len(self.stack), module, arguments, options)
        self.order += 1
        if self.trace._observer is not None:
            with _unseen():
                self.trace._observer.begin(call)
        return call

    def _before(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        operation: Operation = "block" if any(True for _ in module.children()) else "module"
        path = self.paths[module]
        self.stack.append(self._begin(path, type(module).__name__, operation, module, arguments, options))

    def _after(self, _module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        self._end(self.stack.pop(), output)

    def _end(self, call: Call, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None:
            return
        if self.trace._observer is not None:
            with _unseen():
                self.trace._observer.end(call, tensor)
        if call.address in self.waiting:
            if self.trace._consume is None:
                self.trace._kept[call.address] = self._keep(call.address, tensor)
            else:
                with _unseen():
                    self.trace._consume(call.address, tensor)
            self.waiting.discard(call.address)
            if self.stop and not self.waiting:
                raise _Stop

    def _keep(self, address: str, tensor: Tensor) -> Kept:
        overwritten = self.trace._overwritten
        return Kept.of(tensor, clone=self.clone_all or (overwritten is not None and address in overwritten))

    # ---- functions ---------------------------------------------------------------------------------------------

    def function(self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run one torch function, as a call of its own unless it belongs to one of torch's own modules."""
        name = getattr(function, "__name__", "")
        inside = self.stack[-1] if self.stack else None
        folded = inside is not None and type(inside.module).__module__.startswith("torch.nn.modules")
        if name in KERNEL_FUNCTIONS and folded and inside is not None:
            self._kernel(inside, name, arguments, options)
        if folded or name in _SILENT or name == "__get__" or not name:
            return function(*arguments, **options)
        # torch's words carry underscores for in-place and operator forms: add_, __iadd__, __radd__ are all "add".
        versions = [(a, a._version) for a in tree_leaves((arguments, options)) if isinstance(a, Tensor)]
        output = None
        path = self._function_path(inside, function_name(name))
        if name in KERNEL_FUNCTIONS or self.trace._observer is not None:
            return self._observed(function, path, name, arguments, options, versions)
        output = function(*arguments, **options)
        if is_call(output, versions):
            self._end(self._begin(path, function_name(name), "function", None, arguments, options), output)
        return output

    def _observed(
        self,
        function: Callable[..., Any],
        path: str,
        name: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        versions: list[tuple[Tensor, int]],
    ) -> Any:
        """As above, but announced before it runs, so that an observer sees its inputs as they are then."""
        counts, order = self.counts[path], self.order
        call = self._begin(path, function_name(name), "function", None, arguments, options)
        if name in KERNEL_FUNCTIONS:
            self._kernel(call, name, arguments, options)
        output = function(*arguments, **options)
        if is_call(output, versions):
            self._end(call, output)
        else:
            self.counts[path], self.order = counts, order
        return output

    def _kernel(self, call: Call, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self.trace._observer is not None:
            with _unseen():
                self.trace._observer.kernel(call, name, arguments, options)
        if self.trace._with_inputs and call.address in self.trace.layers:
            image = arguments[0] if arguments else options["input"]
            self.trace._inputs[call.address] = self._keep(call.address, image)

    def _function_path(self, inside: Call | None, name: str) -> str:
        owner = self.trace.module if inside is None or inside.module is None else inside.module
        # A child module of that name has the better claim to the path.
        own = f"{name}_function" if name in dict(owner.named_children()) else name
        return f"{inside.path}.{own}" if inside is not None else own


class _FunctionMode(TorchFunctionMode):
    """Sees every torch function that Python code calls, whichever way it is spelled."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.recorder.function(func, args, kwargs or {})


def _unseen() -> AbstractContextManager[None]:
    """An observer computes with tensors too; its operations are not calls of the network and must not be counted."""
    context: AbstractContextManager[None] = torch._C.DisableTorchFunction()
    return context


class _ElementaryMode(TorchDispatchMode):
    """Sees the elementary operations that functions are made of; only an observer asks for them."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.observer = observer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would wrap __torch_dispatch__ so that torch.compile leaves it alone, and import its compiler for that:
        # 800 modules, one to three seconds at the first layer table, for networks that are never compiled here.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        output = func(*args, **options)
        with _unseen():
            self.observer.elementary(func, args, options, output)
        return output
