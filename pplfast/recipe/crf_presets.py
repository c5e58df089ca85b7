"""What can be chosen for the background and the CRF, and the check of it. Without numpy: the command line lists it."""

from dataclasses import dataclass

from pplfast.errors import UserError


@dataclass(frozen=True)
class CrfPreset:
    """Settings of one mean-field inference.

    gt_prob: None: the unary is -log of the probabilities, clipped at 1e-5. Otherwise the unary comes from the argmax
    label, which is right with this probability (pydensecrf's `unary_from_labels`).
    sxy in pixels, srgb in grey levels (0..255), compat: weight of the Potts term.
    """

    source: str
    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    gt_prob: float | None = None
    iterations: int = 10


PRESETS = {
    "probabilities": CrfPreset("PSA, imutils.crf_inference", 3, 3, 80, 13, 10),
    "labels": CrfPreset("IRN, imutils.crf_inference_label", 3, 3, 50, 5, 10, gt_prob=0.7),
    "deeplab": CrfPreset("DeepLab v2, PASCAL VOC", 1, 3, 67, 3, 4),
}
NONE = "none"
# What computes it in a labelling job: processes, or the network's device; "auto" takes the GPU where there is one.
ENGINES = PYDENSECRF, DEVICE = "pydensecrf", "device"
AUTO = "auto"

BACKGROUNDS = ("threshold", "alpha")
MOST_ALPHA = 1000
DEFAULT_THRESHOLD = 0.25  # where neither a recipe nor masks say which


def check_crf(name: str) -> None:
    """Raises UserError for a preset that does not exist."""
    if name != NONE and name not in PRESETS:
        raise UserError(f"CRF preset '{name}': must be one of {', '.join(PRESETS)}, {NONE}")


def check_background(kind: str, value: float) -> None:
    """Raises UserError for a kind that does not exist or a value outside its range."""
    if kind not in BACKGROUNDS:
        raise UserError(f"background '{kind}': must be one of {', '.join(BACKGROUNDS)}")
    if kind == "threshold" and not 0 < value < 1:
        raise UserError(f"background threshold {value}: must lie between 0 and 1 (usual: 0.15 to 0.30)")
    if kind == "alpha" and not 0 < value <= MOST_ALPHA:
        raise UserError(f"background alpha {value}: must be above 0, at most {MOST_ALPHA} (usual: 4, 24, 32)")
