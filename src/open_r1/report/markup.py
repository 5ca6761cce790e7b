"""HTML and SVG elements from Python: text is escaped unless it is markup already. The result is well-formed XML too."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

_EMPTY = frozenset({"meta", "br", "line", "path", "rect", "circle", "polyline"})
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}
"""Control characters, forbidden in HTML, by their pictures in Unicode."""


class Markup(str):
    """Text that needs no escaping."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """``value`` as text that shows itself, whatever it holds."""
    if isinstance(value, Markup):
        return value
    text = str(value).translate(_CONTROL).encode("utf-8", "replace").decode("utf-8")  # no lone surrogates
    return Markup(html.escape(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd"))


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """``<tag attributes>children</tag>``.

    Args:
        children: text, markup, numbers, or iterables of them; None is left out.
        attributes: None and False are left out; ``class_`` is ``class``, and underscores are dashes.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape("" if value is True else value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _EMPTY and not children:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[Any]) -> Markup:
    """Children one after the other."""
    parts = []
    for child in children:
        if child is None:
            continue
        is_group = isinstance(child, Iterable) and not isinstance(child, str)
        parts.append(join(child) if is_group else escape(child))
    return Markup("".join(parts))
