"""Reading a definition's text: the part of YAML it may use, with limits, into plain words, numbers and lists.

PyYAML only cuts the text into events. No tag is resolved, no anchor followed, no object made: what isn't a list, a
mapping, a word, a plain number, true or false is refused with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator  # noqa: TC003 - types are checked in tests
from dataclasses import dataclass
from typing import Any

from convscope.errors import ConvscopeError

LARGEST_TEXT = 32 * 1024
DEEPEST = 10
MOST_NODES = 5_000
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,8})\Z")
_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]{0,11})(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][-+]?[0-9]{1,2})?\Z")
_LOOKS_LIKE_NUMBER = re.compile(r"[-+.]?[0-9]|[-+]?\.(inf|nan)", re.IGNORECASE)


class DefinitionError(ConvscopeError):
    """A definition that isn't one: what, the line and layer, and the next step. ``line`` counts from 1; 0 for all."""

    def __init__(self, what: str, *, line: int = 0, layer: str = "", next_step: str = "") -> None:
        place = ", ".join(part for part in (f"line {line}" if line else "", layer) if part)
        super().__init__(what, where=place, next_step=next_step)
        self.line = line
        self.layer = layer


@dataclass(frozen=True)
class Node:
    """A value of the text and the line it begins on: a scalar, a list of nodes, or a dict of nodes by word."""

    value: Any
    line: int

    def plain(self) -> Any:
        """The value without lines; a list of layers stays nodes."""
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        if isinstance(self.value, dict):
            return {name: each.plain() for name, each in self.value.items()}
        return self.value


def read(text: str) -> Node:
    r"""The text as one tree of nodes; raises :class:`DefinitionError`.

    >>> read("- relu\n- pool: {size: 2}").plain()
    ['relu', {'pool': {'size': 2}}]
    """
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_TEXT:
        raise DefinitionError(
            f"the definition is longer than {LARGEST_TEXT // 1024} KiB",
            next_step="use residual blocks and fewer layers",
        )
    import yaml

    try:
        reader = _Reader(iter(yaml.parse(text, Loader=yaml.SafeLoader)))
        return reader.document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", "") or getattr(error, "reason", "") or "it isn't YAML")
        raise DefinitionError(
            f"the text can't be read: {problem[:120]}",
            line=mark.line + 1 if mark else 0,
            next_step="write one layer per line, like `- convolution: {units: 16, size: 5}`",
        ) from error


class _Reader:
    """From PyYAML's events to nodes, by hand."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._nodes = 0

    def document(self) -> Node:
        import yaml

        node: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
                continue
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    raise DefinitionError("there is a second document", line=_line(event), next_step="remove the ---")
                if event.tags or event.version:
                    raise DefinitionError("a definition has no directives", line=_line(event), next_step="remove them")
                continue
            node = self._node(event, 0)
        if node is None or node.value in (None, "", []):
            raise DefinitionError("the definition is empty", next_step="begin with `- input: {rows: 32, columns: 32}`")
        return node

    def _node(self, event: Any, depth: int) -> Node:
        import yaml

        line = _line(event)
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > DEEPEST:
            what = "has too many parts" if depth <= DEEPEST else "is nested too deep"
            raise DefinitionError(f"the definition {what}", line=line, next_step="write it with fewer layers")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise DefinitionError("anchors and aliases aren't read", line=line, next_step="write the layer out again")
        if getattr(event, "tag", None):
            raise DefinitionError(
                "tags aren't read", line=line, next_step="remove what begins with an exclamation mark"
            )
        if isinstance(event, yaml.ScalarEvent):
            return Node(_scalar(event.value, line) if event.style is None else event.value, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(line, depth)
        return self._mapping(line, depth)

    def _list(self, line: int, depth: int) -> Node:
        import yaml

        items: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, depth + 1))
        return Node(items, line)

    def _mapping(self, line: int, depth: int) -> Node:
        import yaml

        found: dict[str, Node] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth + 1)
            if not isinstance(key.value, str):
                raise DefinitionError("an option's name must be a word", line=key.line, next_step="write name: value")
            if key.value in found:
                raise DefinitionError(
                    f"{key.value[:40]!r} is there twice", line=key.line, next_step="remove one of the two"
                )
            found[key.value] = self._node(next(self._events), depth + 1)
        return Node(found, line)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar(text: str, line: int) -> Any:
    if _INTEGER.match(text):
        return int(text)
    if _NUMBER.match(text):
        return float(text)
    if text in ("true", "false"):
        return text == "true"
    if text == "":
        return None
    if _LOOKS_LIKE_NUMBER.match(text):
        raise DefinitionError(
            f"{text[:40]!r} isn't a plain decimal number", line=line, next_step="write it like 16 or 0.5"
        )
    return text


__all__ = ["DefinitionError", "Node", "read"]
