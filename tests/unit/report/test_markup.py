"""Elements: escaped by default, well-formed whatever the text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.report.markup import Markup, element, escape


def test_an_element_nests_and_names_its_attributes() -> None:
    made = element("div", "a", None, [element("br"), 3], class_="x y", aria_label='say "hi"', hidden=True, id=None)
    assert made == '<div class="x y" aria-label="say &quot;hi&quot;" hidden="">a<br/>3</div>'


def test_an_empty_element_that_html_does_not_know_as_empty_is_closed() -> None:
    assert element("span") == "<span></span>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a & b", "a &amp; b"),
        ("\x00\x1b[31m", "␀␛[31m"),
        ("\ud800", "?"),
        (Markup("<b>x</b>"), "<b>x</b>"),
    ],
)
def test_text_shows_itself(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_any_text_makes_well_formed_xml(text: str, attribute: str) -> None:
    tree = ElementTree.fromstring(element("p", text, element("b", text), title=attribute).encode())
    assert [child.tag for child in tree] == ["b"]
