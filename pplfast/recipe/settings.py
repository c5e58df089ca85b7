"""Every setting of a run as frozen dataclasses; a table of the TOML file is one of them."""

from dataclasses import dataclass, field
from typing import Any

from pplfast.errors import UserError
from pplfast.recipe.crf_presets import check_background
from pplfast.recipe.ranges import SettingError, check_values, short


class Settings:
    """What every table has: values that ranges.py does not allow, and such as do not go together, cannot be, however it
    is made."""

    def __post_init__(self) -> None:
        """Raises UserError naming the setting and what it must be."""
        check_values(self)
        self.check_together()

    def check_together(self) -> None:
        """Raises SettingError for values that may be alone, but not with the others of this table."""

    def need(self, condition: bool, key: str, expected: str) -> None:
        if not condition:
            value: Any = getattr(self, key)
            raise SettingError(type(self), key, f" = {short(value)}: must be {expected}")


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The network: `[model]`, and of the segmentation network `[segmentation.model]`."""

    backbone: str = "efficientnet_lite0"  # a name of `pplfast.models.registry.BACKBONES`, or "package.module:Class"
    weights: str = "auto"  # "auto": the installed package where there is one; "none": random; else a file
    output_stride: int = 16  # used by the backbones that offer a choice
    dropout: float = 0.0  # before the classifier, on the pooled features; not in a segmentation network
    pooling: str = "mean"  # of each branch's features: "mean", "max", "lse" or "package.module:function"; as dropout
    frozen_blocks: int = -1  # number of early blocks without training; -1: the backbone's usual number


@dataclass(frozen=True)
class AugmentConfig(Settings):
    """What training does with an image: resized, mirrored, colours changed, a square cut out. Sizes in pixels."""

    crop: int = 448  # pixels
    resize_long: tuple[int, int] = (320, 640)  # the long side becomes U(low, high) pixels
    flip: float = 0.5  # probability
    jitter: float = 0.0  # strength of brightness, contrast and saturation change: factors in 1 +- jitter

    def check_together(self) -> None:
        low, high = self.resize_long
        self.need(low <= high, "resize_long", "two sizes, low <= high")


@dataclass(frozen=True)
class OptimConfig(Settings):
    """SGD with momentum and polynomial decay, as the field trains its classifiers (PSA, IRN, DeepLab)."""

    lr: float = 0.01
    head_factor: float = 10.0  # learning rate of the classifier relative to the backbone
    momentum: float = 0.9
    weight_decay: float = 5e-4
    poly: float = 0.9  # lr * (1 - step / steps)^poly, per stage
    warmup: int = 0  # steps of linear warm-up at the start of the first stage
    batch: int = 16  # images per optimizer step, over all ranks and accumulation steps
    accumulation: int = 1  # parts that a batch is computed in, one after the other, each shared among the ranks
    micro_batch: int = 0  # in place of accumulation: images that a rank computes at once, at most; 0: not set
    precision: str = "auto"  # "auto": bf16 where it is fast, else fp32; or "fp32", "bf16", "fp16" (GPU only)
    zero: int = 0  # DeepSpeed ZeRO stage, 0 to 2
    reduction: str = "fp32"  # "fp32" | "bf16": the gradients on their way between ranks
    clip: float = 0.0  # gradient norm; 0: none

    def check_together(self) -> None:
        parts = f"accumulation = {self.accumulation}"
        self.need(self.batch % self.accumulation == 0, "batch", f"a multiple of {parts}")
        self.need(not self.micro_batch or self.accumulation == 1, "micro_batch", f"left out with {parts}")
        if self.precision == "fp16":
            self.need(self.reduction == "fp32", "reduction", "fp32 with precision = 'fp16'; or train in bf16")
            # DeepSpeed 0.19.8 takes the norm of the scaled gradients at ZeRO 1 and 2.
            self.need(not self.clip or not self.zero, "clip", "0 with precision = 'fp16', or zero 0; or train in bf16")


@dataclass(frozen=True)
class Length(Settings):
    """How long a training is, in one of two ways: in epochs, of which more images make more steps, or in steps."""

    epochs: float = 0.0  # passes over the images; fractions are allowed
    steps: int = field(default=0, kw_only=True)  # optimizer steps in place of epochs; with neither: no such training

    @property
    def trained(self) -> bool:
        """Whether there is such a training at all."""
        return self.epochs > 0 or self.steps > 0

    def check_together(self) -> None:
        self.need(not self.steps or not self.epochs, "epochs", f"left out with steps = {self.steps}")


@dataclass(frozen=True)
class StageConfig(Length):
    """One stage of progressive patch learning (arXiv 2209.07828): where the patches are cut, and for how long."""

    position: str = ""  # block name after which the patches are cut; "" = no patches
    grid: int = 1  # K
    lr: float = 1.0  # factor on optim.lr

    def check_together(self) -> None:
        super().check_together()
        if not self.trained:
            raise SettingError(type(self), "epochs", " and 'steps' are missing or 0: one of the two must be above 0")


@dataclass(frozen=True)
class CamConfig(Settings):
    """Class activation maps: the sum over scales and flips, then normalised."""

    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    flip: bool = True
    batch: int = 8  # images of one shape at a time
    precision: str = "auto"  # "auto": bf16 where it is fast, else fp32

    def check_together(self) -> None:
        self.need(bool(self.scales), "scales", "one size or more")


@dataclass(frozen=True)
class LabelConfig(Settings):
    """Pseudo labels from maps: the background's score, and the dense CRF."""

    background: str = "threshold"  # "threshold" | "alpha"
    value: float = 0.0  # the threshold or the exponent; threshold 0: the best of the sweep
    crf: str = "probabilities"  # preset name, or "none"

    def check_together(self) -> None:
        if self.background == "threshold" and self.value == 0:
            return
        try:
            check_background(self.background, self.value)
        except UserError as error:
            raise SettingError(type(self), "value", f": {error}") from None


@dataclass(frozen=True)
class WalkConfig(Settings):
    """The random walk of the CAMs at stride 4 within the predicted boundaries."""

    radius: int = 5  # pixels of the grid: a step goes to neighbours nearer than this
    beta: float = 10.0  # exponent of the affinities
    steps: int = 256


@dataclass(frozen=True)
class AffinityConfig(Length):
    """Refinement by a boundary network, trained for epochs or steps, and a random walk; with neither there is none.
    Values: IRN's (arXiv 1904.05044), the learning rate for real momentum."""

    foreground: float = 0.30  # CAM threshold of sure objects
    background: float = 0.05  # below it, sure background; unsure between them
    crf: str = "labels"  # preset name that both go through, or "none"
    radius: int = 10  # of the pixel pairs in the loss, at stride 4
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop=512, resize_long=(320, 640)))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.01, head_factor=1.0, weight_decay=1e-4))
    walk: WalkConfig = field(default_factory=WalkConfig)
    label: LabelConfig = field(default_factory=lambda: LabelConfig(crf="none"))  # from the walked maps

    def check_together(self) -> None:
        super().check_together()
        self.need(self.background <= self.foreground, "background", f"at most foreground = {self.foreground}")


@dataclass(frozen=True)
class SegmentationConfig(Length):
    """The segmentation network that is trained on the pseudo labels, and its test; without epochs and steps there is
    none."""

    head: str = "auto"  # "auto": the usual one of the backbone; "light" | "largefov" | "aspp"
    balanced: bool = False  # background and object pixels of an image weigh the same
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, batch=10))
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the test
    flip: bool = True
    test_batch: int = 4  # images of one shape at a time
    crf: str = "deeplab"  # preset name, or "none"

    def check_together(self) -> None:
        super().check_together()
        self.need(bool(self.scales), "scales", "one size or more")
        if self.model.pooling != "mean":
            what = f" = {short(self.model.pooling)}: must be left out: a segmentation network does not pool"
            raise SettingError(type(self), "model.pooling", what)


@dataclass(frozen=True)
class Recipe(Settings):
    """All settings of a run. Frozen: change it as it is read, `load_recipe(name, {"optim.lr": 0.02})`."""

    name: str = ""
    description: str = ""
    seed: int = 0
    variants: tuple[str, ...] = ("plain", "ppl")  # what `pplfast run` trains: plain, ppl, explicit
    loss: str = "soft_margin"  # of the classifier: a name of `pplfast.train.loss.LOSSES`, or "package.module:function"
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stages: tuple[StageConfig, ...] = ()
    cam: CamConfig = field(default_factory=CamConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
