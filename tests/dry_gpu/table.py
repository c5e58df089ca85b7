"""The cases and what each may cost. Without torch: pytest reads it in a process that has no fake device."""

from dataclasses import dataclass

BACKBONES = ("wrn38", "resnet50", "efficientnet_lite0")
VARIANTS = ("plain", "ppl", "explicit")


@dataclass(frozen=True)
class Limits:
    """mib: alive at once besides weights and inputs, a tenth above what was counted. waits, copies: how often the host
    may wait for the device, and tensors may go from one to the other. nchw: inputs and gradients of convolutions that
    may be NCHW."""

    mib: int
    waits: int = 0
    copies: int = 0
    nchw: int = 0


# MiB of a training step by variant in half precision; gradients and momentum are among them. Other precisions change
# the same tensors of all variants, and are looked at in one. Batch 4 at 448 x 448, EfficientNet-Lite0: 8 at 256 x 256.
TRAINING = {"wrn38": (1315, 2030, 2595), "resnet50": (325, 480, 580), "efficientnet_lite0": (140, 235, 295)}
TRAINING_PPL_FP32 = {"wrn38": 4055, "resnet50": 955, "efficientnet_lite0": 465}
# Of 16 images (8, mirrored) of 375 x 500 at four scales: the largest scale's features.
MAPS = {"wrn38": (5880, 7920, 12240), "resnet50": (1220, 1220, 1465), "efficientnet_lite0": (1025, 1025, 1025)}
MAPS_PPL_FP32 = {"wrn38": 15820, "resnet50": 2120, "efficientnet_lite0": 1900}
BOUNDARY = {"wrn38": (380, 755), "resnet50": (95, 165), "efficientnet_lite0": (45, 60)}
SEGMENTATION = {"wrn38": (1560, 1560), "resnet50": (315, 315), "efficientnet_lite0": (120, 175)}
PREDICTION = {"wrn38": (2350, 3375), "resnet50": (445, 775), "efficientnet_lite0": (365, 605)}
MAP_MAKER = {
    ("wrn38", "groups"): 375,
    ("wrn38", "tiles"): 160,
    ("resnet50", "groups"): 64,
    ("efficientnet_lite0", "groups"): 56,
}
WALK = {"wrn38": 4205, "resnet50": 890, "efficientnet_lite0": 430}
CRF = {"probabilities": 980, "labels": 875, "deeplab": 740}
# On CUDA a group normalisation makes its tensors NCHW, and so is the gradient of an interpolation of few channels.
HEAD_NCHW = {"wrn38": 1, "resnet50": 4, "efficientnet_lite0": 5}
LATTICE_WAITS, LATTICE_COPIES = 3, 2  # their number of vertices is a result; small constants


def _table() -> dict[str, Limits]:
    table = {}
    for backbone in BACKBONES:
        for variant, training, maps in zip(VARIANTS, TRAINING[backbone], MAPS[backbone], strict=True):
            table[f"train/{backbone}/{variant}/bf16"] = Limits(training)
            table[f"maps/{backbone}/{variant}/bf16"] = Limits(maps)
        # The loss scaler waits: are all values finite?
        table[f"train/{backbone}/ppl/fp16"] = Limits(TRAINING[backbone][VARIANTS.index("ppl")], waits=1)
        table[f"train/{backbone}/ppl/fp32"] = Limits(TRAINING_PPL_FP32[backbone])
        table[f"maps/{backbone}/ppl/fp32"] = Limits(MAPS_PPL_FP32[backbone])
        for k, precision in enumerate(("bf16", "fp32")):
            table[f"boundary/{backbone}/{precision}"] = Limits(BOUNDARY[backbone][k], nchw=7)
            table[f"segmentation/{backbone}/{precision}"] = Limits(SEGMENTATION[backbone][k], nchw=HEAD_NCHW[backbone])
            nchw = 4 if backbone == "efficientnet_lite0" else 0  # one of each scale
            table[f"predict/{backbone}/{precision}"] = Limits(PREDICTION[backbone][k], nchw=nchw)
        table[f"walk/{backbone}"] = Limits(WALK[backbone], copies=3, nchw=1)  # tables of the neighbours, once
    for (backbone, rows), mib in MAP_MAKER.items():
        table[f"map_maker/{backbone}/{rows}"] = Limits(mib, copies=1)  # the classes
    for preset, mib in CRF.items():
        for unsure, lattices in (("sure", 2), ("unsure", 3)):
            # Images and counts go there, labels come back, and without unsure pixels how sure they are; "labels" sends
            # a constant for each set of energies.
            copies = 3 + (unsure == "sure") + LATTICE_COPIES * lattices + (lattices - 1 if preset == "labels" else 0)
            table[f"crf/{preset}/{unsure}"] = Limits(mib, LATTICE_WAITS * lattices, copies)
    table["large/cam_fuse"] = Limits(360)
    table["large/random_walk"] = Limits(275, copies=3)
    return table


TABLE = _table()
