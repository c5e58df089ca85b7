"""What the figures of a sweep are called, in its files and in words. Imports no engine: tables and charts are made on
machines that have none."""

from pplfast.steps import SCORES, STEP, TEST

CAMS = "cam_miou"
TITLES = {step.figure: STEP[source].text or STEP[source].title for source, step in SCORES.items()}
TESTED = tuple(step.figure for step in SCORES.values() if step.of == TEST)
# After the name of a figure: the part of the scored images that it is of.
FIRST, SECOND = "_first", "_second"
SIZES = ("_small", "_medium", "_large")
PARTS = {FIRST: ", first part", SECOND: ", second part"} | {suffix: f", {suffix[1:]} objects" for suffix in SIZES}


def title(figure: str) -> str:
    """In words."""
    for suffix, words in PARTS.items():
        if figure.endswith(suffix):
            return TITLES[figure.removesuffix(suffix)] + words
    return TITLES[figure]


def of_test(figure: str) -> bool:
    """Whether it is scored on the list of the test."""
    return figure.startswith(TESTED)
