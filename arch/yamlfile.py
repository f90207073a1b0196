"""YAML files read safely: a clear error with file and line, and no key silently written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from ..errors import SpecError, shown

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE: Final = "tag:yaml.org,2002:merge"
#: Deepest nesting that a file may have; far beyond any device file, far below what overflows the parser's stack.
_MAX_DEPTH: Final = 50


class _UniqueKeyLoader(_Loader):
    """Safe loader that refuses a key written twice, which YAML would silently drop."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"key {key!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the composer, which recurses in C, meets it."""
    depth = 0
    events: Any = yaml.parse(text, Loader=_Loader)
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_MAX_DEPTH} levels", problem_mark=event.start_mark)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises
    ------
    SpecError
        The file cannot be read, is not YAML, writes a key twice, or holds no mapping; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        _check_depth(text)
        document = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise SpecError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if document is None:
        raise SpecError(f"{path}: expected a mapping at the top level; the file is empty")
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected a mapping at the top level, found {shown(document)}")
    return document
