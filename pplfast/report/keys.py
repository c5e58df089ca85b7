"""Keys: a colour and what it stands for."""

from pplfast.data.dataset import Dataset
from pplfast.labels.overlay import display_palette
from pplfast.report.markup import Markup, element


def key(name: str, css: str = "", **style: str) -> Markup:
    """css, style: of the square before the name."""
    return element("span", element("i", css=css, **style), name, css="key")


def class_key(dataset: Dataset, column: int) -> Markup:
    """A class's name, and its colour as pictures of labels show it."""
    colour = ",".join(map(str, display_palette()[dataset.classes.ids[column]].tolist()))
    return key(dataset.classes.names[column], style=f"background:rgb({colour})")


def class_keys(dataset: Dataset) -> list[Markup]:
    return [class_key(dataset, column) for column in range(len(dataset.classes))]
