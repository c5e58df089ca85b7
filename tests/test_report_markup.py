"""Markup is made in one place, which escapes all other text and refuses what the page never holds."""

import math

import pytest
from report_runs import Page

from pplfast.report.charts import Series, bar, line_chart, smooth, ticks
from pplfast.report.markup import Markup, element, escape, join, stylesheet


def test_text_is_escaped_wherever_it_enters():
    assert str(element("p", "<b>&", element("i", "'\""), alt="\"><'")) == (
        '<p alt="&quot;&gt;&lt;&#x27;">&lt;b&gt;&amp;<i>&#x27;&quot;</i></p>'
    )
    assert str(join(["<", Markup("<br>")], "\n")) == "&lt;\n<br>"


def test_markup_put_into_text_is_text_again():
    assert str(element("p", f"{element('b', 'x')}")) == "<p>&lt;b&gt;x&lt;/b&gt;</p>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b", "a\\u0000b"),
        ("\x1b[2J", "\\u001b[2J"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800", "\\ud800"),
        ("\r", "\\u000d"),
    ],
)
def test_what_does_not_show_is_written_out(text, shown):
    assert escape(text) == shown
    escape(text).encode("utf-8")


def test_other_scripts_and_lines_stay_as_they_are():
    for text in ("Größe\n\tnext", "猫", "قطة", "\U0001f408\u200d"):
        assert escape(text) == text


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("script", {}),
        ("style", {}),
        ("p onclick=x", {}),
        ("P", {}),
        ("p", {"onclick": "x()"}),
        ("p", {"onmouse_over": "x()"}),
        ("p", {"a b": ""}),
        ("a", {"href": "javascript:x()"}),
        ("a", {"href": "/etc/passwd"}),
        ("a", {"href": "//example.org/x"}),
        ("a", {"href": "https://example.org"}),
        ("a", {"href": "a b"}),
        ("a", {"href": ""}),
        ("a", {"target": "x"}),
        ("button", {"popovertarget": "a b"}),
        ("div", {"id": "x"}),
        ("img", {"src": "pictures/../000001-photo.jpg"}),
        ("img", {"src": "pictures/000001-photo.svg"}),
        ("form", {}),
        ("p", {"formaction": "x"}),
        ("meta", {"http_equiv": "refresh"}),
        ("img", {"srcset": "x"}),
        ("img", {"src": "javascript:x()"}),
        ("img", {"src": "../secret.png"}),
        ("img", {"src": "https://example.org/x.png"}),
        ("img", {"src": "data:image/svg+xml;base64,AAAA"}),
        ("img", {"src": 'data:image/jpeg;base64,AAAA" x="'}),
        ("i", {"style": "background:url(x)"}),
        ("i", {"style": "width:1.0%;color:red"}),
        ("i", {"style": "background:rgb(1,2,3)\n"}),
        ("p", {"css": 'a" onclick="x()'}),
    ],
)
def test_what_the_page_never_holds_is_refused(name, attributes):
    with pytest.raises(ValueError, match=r"no element|no attribute|not what the report writes"):
        element(name, **attributes)


def test_a_style_sheet_cannot_end_itself():
    with pytest.raises(ValueError, match="'<'"):
        stylesheet("p { } </style><script>")


def test_labels_of_charts_are_escaped():
    text = str(line_chart([Series("<x>", "s-ppl", [1, 2], [1.0, 2.0])], "<x-own>", '"><x-own>'))
    assert Page(text).kinds <= {
        ("svg", "aria-label", "class", "role", "viewbox"), ("line", "class", "x1", "x2", "y1", "y2"),
        ("text", "text-anchor", "x", "y"), ("text", "text-anchor", "transform"), ("polyline", "class", "points"),
    }  # fmt: skip
    assert text.count("&lt;x-own&gt;") == 4


@pytest.mark.parametrize("values", [[0.0], [1e30, 1e30], [-1e30, 1e30], [1e15, 1e15 + 1], [5e-324, 0.0], [-3.0, -2.0]])
def test_charts_of_extreme_figures_are_drawn_inside_their_frame(values):
    for from_zero in (False, True):
        text = str(line_chart([Series("a", "s-ppl", range(len(values)), values)], "x", "y", from_zero))
        assert "nan" not in text and "inf" not in text and text.count("<line") < 20
        points = text.partition('points="')[2].partition('"')[0].split()
        assert all(0 <= float(point.partition(",")[2]) <= 300 for point in points)
    assert len(ticks(min(values), max(values))) < 20


def test_a_long_line_is_thinned_out():
    count = 100_001
    text = str(line_chart([Series("a", "s-ppl", range(count), [0.5] * count)], "x", "y"))
    points = text.partition('points="')[2].partition('"')[0].split()
    assert 1000 < len(points) <= 2000 and points[-1].startswith("546.0,")


def test_smoothing_leaves_out_what_is_not_finite():
    assert smooth([1, math.nan, 3, 5], 2) == [1, 1, 3, 4]
    assert math.isnan(smooth([math.nan], 1)[0])


def test_a_bar_never_leaves_its_cell():
    assert 'style="width:100.0%"' in str(bar(7, "b-ppl")) and 'style="width:0.0%"' in str(bar(-1, "b-ppl"))
