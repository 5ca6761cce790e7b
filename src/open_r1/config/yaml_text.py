"""YAML text as nodes and plain data; what is wrong with it is one line with its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from open_r1.errors import UserError


class Loader(yaml.SafeLoader):
    """Plain data only, and no key twice in a mapping, of which YAML would keep the last value without a word.

    The keys of the outermost mapping are left to whoever reads it.
    """

    _depth = 0

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        self._depth += 1
        node = super().compose_mapping_node(anchor)
        self._depth -= 1
        if self._depth:
            refuse_repeats(node)
        return node


def refuse_repeats(node: yaml.MappingNode) -> None:
    """Raises a YAML error where a key stands twice."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)


@contextmanager
def loader_of(path: Path | str, text: str) -> Iterator[Loader]:
    """A loader of the text of ``path``; what YAML has against it inside is a `UserError` with the line."""
    try:
        loader = Loader(text)
        try:
            yield loader
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        spaces = ": write spaces for tabs" if "\\t" in (error.problem or "") else ""
        problem = f"{error.problem or error.context}{spaces}"
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: not YAML: the character U+{error.character:04X} is not allowed") from None
