"""The segmentation network that a path means, and what to do where there is none. No torch: errors come at once."""

from pathlib import Path

from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.networks import CLASSIFIER, SEGMENTATION, find_network, networks_in


def find_segmentation(path: StrPath) -> Path:
    """As `find_network`; UserError for a run without such a network says how its images are labelled instead."""
    path = Path(path)
    if not networks_in(path, SEGMENTATION) and (classifiers := networks_in(path, CLASSIFIER)):
        raise UserError(
            f"{path}: has a classifier and no segmentation network, and a classifier labels only images whose classes "
            f"are known: `pplfast label --model {classifiers[0]} --labels FILE`; the last steps of a run make the "
            "network where its recipe has a [segmentation] table with epochs, as own-images has"
        )
    return find_network(path, SEGMENTATION)
