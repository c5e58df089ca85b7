"""The points of a sweep: what the options span, their names, and what is refused before anything runs."""

import pytest

from pplfast.errors import UserError
from pplfast.sweep.points import Point, make_points, split


def names(*args) -> list[str]:
    return [point.name for point in make_points(*args)]


def test_points_are_the_product_of_variants_and_values():
    points = make_points(["ppl", "explicit"], [], ["optim.lr=0.005, 0.01", "cam.scales=[0.5, 1.0],[1.0]"])
    assert len(points) == 8
    assert points[0] == Point(
        "ppl,optim.lr=0.005,cam.scales=0.5-1.0", "ppl", ("optim.lr=0.005", "cam.scales=[0.5, 1.0]")
    )
    assert points[-1].name == "explicit,optim.lr=0.01,cam.scales=1.0"
    assert names(["plain", "ppl"], [], []) == ["plain", "ppl"]


def test_points_that_differ_in_what_a_variant_does_not_look_at_are_one():
    vary = ["stages.0.grid=2,4", "optim.lr=1,2"]
    assert names(["plain"], [], vary) == ["plain,optim.lr=1", "plain,optim.lr=2"]
    assert len(names(["explicit"], [], vary)) == 4
    assert names(["explicit"], [], ["stages.1.lr=1,2"]) == ["explicit"]


def test_points_by_hand_change_settings_together_and_name_a_variant_or_have_all():
    stages = 'stages=[{position = "group2", grid = 4, epochs = 3}, {epochs = 1}]'
    hand = [f"two: {stages} optim.lr=0.01", "base: variant=plain", "as-is:"]
    points = make_points(["plain", "ppl"], hand, [])
    assert [point.name for point in points] == ["plain,two", "ppl,two", "base", "plain,as-is", "ppl,as-is"]
    assert points[1] == Point("ppl,two", "ppl", (stages, "optim.lr=0.01"))
    assert points[2] == Point("base", "plain", ()) and points[4].settings == ()
    assert names(["ppl"], ["a: variant=ppl"], ["optim.lr=1,2"]) == ["a,optim.lr=1", "a,optim.lr=2"]


@pytest.mark.parametrize(
    "hand, vary, message",
    (
        ([], ["optim.lr"], "must be KEY=VALUE"),
        ([], ["optim.lr=0.1,,0.2"], "a value is empty"),
        ([], ["optim.lr=1", "optim.lr=2"], "is given twice"),
        ([], ["seed=1,2"], "give --seeds 0-4"),
        ([], ["variant=plain"], "give --variants plain,ppl"),
        (["no colon"], [], "must be a name of letters"),
        (["../up: optim.lr=1"], [], "must be a name of letters"),
        (["sweep.json: optim.lr=1"], [], "must be a name of letters"),
        (["a: variant=plian"], [], "did you mean plain?"),
        (["a: optim.lr"], [], "must be KEY=VALUE"),
        (["a: optim.lr=1", "a: optim.lr=2"], [], "two points are both called ppl,a"),
        ([], ["cam.scales=[1,2],[[1],2]"], "two points are both called"),
        ([], ["model.backbone=" + "x" * 200], "too long a name"),
    ),
)
def test_what_spans_no_points_is_named(hand, vary, message):
    with pytest.raises(UserError) as error:
        make_points(["ppl"], hand, vary)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text, parts",
    (
        ("1,2", ["1", "2"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("'a,b',\"c]\",{x=[1,2]}", ["'a,b'", '"c]"', "{x=[1,2]}"]),
        ("", [""]),
    ),
)
def test_separators_within_brackets_and_quotes_separate_nothing(text, parts):
    assert list(split(text, ",")) == parts
