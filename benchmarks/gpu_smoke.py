"""Does it run on this device at all: one line for each part and combination, going on after a failure.

    python -m pplfast.benchmarks.gpu_smoke --out smoke.json                       on a GPU, about a minute
    python -m pplfast.benchmarks.gpu_smoke --out smoke.json --device cpu --tiny   the same lines where there is none

The file holds every line before it is printed. Exit code 1 when a line failed.
"""

import argparse
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pplfast.benchmarks import models
from pplfast.benchmarks.cam import Images, pplfast_cams
from pplfast.benchmarks.harness import difference, tf32
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.results import commit, hardware, versions
from pplfast.benchmarks.walk import blobs, random_edges
from pplfast.errors import UserError
from pplfast.files import write_json
from pplfast.kernels import CrfTerms, mean_field, random_walk
from pplfast.kernels.backend import force
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.segmentation import SegmentationNet

# An early cut and a later one: progressive takes the later, explicit both.
CUTS = {"wrn38": ("b3_2", "b4_5"), "resnet50": ("layer2", "layer3"), "efficientnet_lite0": ("group3", "group5")}
VARIANTS = ("plain", "ppl", "explicit")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CLASSES, LOSS_SCALE = 20, 1024.0
# Largest difference between the Triton kernels and their plain definitions, of whole networks, relative.
LIMITS = {"fp32": 1e-4, "bf16": 3e-2}
CAM_LIMIT, LABEL_LIMIT, WALK_LIMIT = 2e-2, 1e-3, 1e-3  # CAMs in bf16, in 0..1; share of pixels; relative
GROUPS = ("train", "kernels", "maps", "losses")


@dataclass(frozen=True)
class Sizes:
    train: tuple[int, int]  # batch, side of the square images
    compare: tuple[int, int]
    image: tuple[int, int]  # height, width
    scales: tuple[float, ...]


FULL = Sizes((16, 448), (4, 448), (375, 500), (0.5, 1.0, 1.5, 2.0))
TINY = Sizes((2, 64), (2, 64), (48, 64), (0.5, 1.0))


@dataclass
class Smoke:
    """The lines so far, and where they are kept."""

    device: str
    sizes: Sizes
    out: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def line(self, name: str, run: Callable[[], dict[str, Any]]) -> None:
        """`run` gives the line's figures, with "ok" where it can be false; an exception is a failure."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            row = {"ok": True} | run()
        except Exception as error:  # whatever it is, the other lines are wanted
            if isinstance(error, UserError) and "DALI is not installed" in str(error):
                return self.leave_out(name, str(error))
            row = {"ok": False, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        row["seconds"] = round(time.perf_counter() - start, 3)
        if self.device == "cuda":
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        self._keep({"name": name} | row)

    def leave_out(self, name: str, why: str) -> None:
        self._keep({"name": name, "left_out": why})

    def _keep(self, row: dict[str, Any]) -> None:
        self.lines.append(row)
        self.write(complete=False)
        word = "left out" if "left_out" in row else "ok" if row["ok"] else "FAILED"
        figures = {key: value for key, value in row.items() if key not in ("name", "ok", "traceback")}
        text = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        )
        print(f"{word:8} {row['name']}: {text.splitlines()[0]}", flush=True)

    def write(self, complete: bool) -> None:
        write_json(
            self.out,
            {
                "kind": "smoke",
                "complete": complete,
                "commit": commit(),
                "device": self.device,
                "sizes": vars(self.sizes),
                "hardware": hardware(),
                "versions": versions(),
                "lines": self.lines,
            },
        )

    @property
    def failed(self) -> list[str]:
        return [row["name"] for row in self.lines if not row.get("ok", True)]


def case(backbone: str, variant: str) -> Case:
    cuts = {"plain": (), "ppl": CUTS[backbone][1:], "explicit": CUTS[backbone]}[variant]
    return Case(backbone, CLASSES, tuple((name, 2) for name in cuts), variant == "explicit")


def picture(smoke: Smoke, batch: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, height, width, device=smoke.device).contiguous(memory_format=torch.channels_last)


def optimizer_step(
    model: torch.nn.Module, images: torch.Tensor, loss_of: Callable[[torch.Tensor], torch.Tensor], precision: str
) -> dict[str, Any]:
    """Forward, backward and update as the trainer does them, but for the engine."""
    device = images.device.type
    model.train()
    optimizer = models.sgd(model)
    scaler = torch.amp.GradScaler(device, init_scale=LOSS_SCALE, enabled=precision == "fp16")
    trained = [p for p in model.parameters() if p.requires_grad]
    before = trained[-1].detach().clone()
    with torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
        outputs = model(images)
    loss = loss_of(outputs.float())
    scaler.scale(loss).backward()
    missing = sum(p.grad is None for p in trained)
    scaler.step(optimizer)
    scaler.update()
    changed = not torch.equal(before, trained[-1])
    value = float(loss.detach())
    model.zero_grad(set_to_none=True)
    return {
        "ok": math.isfinite(value) and changed and not missing,
        "loss": value,
        "changed": changed,
        "without_gradient": missing,
    }


def train_lines(smoke: Smoke, backbones: tuple[str, ...]) -> None:
    batch, side = smoke.sizes.train
    labels = (torch.rand(batch, CLASSES, generator=torch.Generator().manual_seed(2)) < 0.1).float().to(smoke.device)

    def loss_of(logits: torch.Tensor) -> torch.Tensor:
        return F.multilabel_soft_margin_loss(logits, labels)

    for backbone in backbones:
        for variant in VARIANTS:
            model = models.make_pplfast(case(backbone, variant), smoke.device)
            models.freeze(model, model.backbone.frozen_default)
            for precision in DTYPES:
                name = f"train {backbone} {variant} {precision}"
                if precision == "fp16" and smoke.device == "cpu":
                    smoke.leave_out(name, "fp16 needs a GPU")
                    continue
                smoke.line(name, lambda: optimizer_step(model, picture(smoke, batch, side, side), loss_of, precision))


def kernel_lines(smoke: Smoke, backbones: tuple[str, ...]) -> None:
    """Logits and the classifier's gradient by the Triton kernels and by their plain definitions, one process."""
    batch, side = smoke.sizes.compare
    for backbone in backbones:
        model = models.make_pplfast(case(backbone, "ppl"), smoke.device)
        models.no_dropout(model)

        def outputs(precision: str) -> tuple[torch.Tensor, torch.Tensor]:
            model.zero_grad(set_to_none=True)
            with torch.autocast(smoke.device, DTYPES[precision], enabled=precision != "fp32"):
                logits = model(picture(smoke, batch, side, side))
            logits.float().square().sum().backward()
            gradient = model.classifier.weight.grad
            assert gradient is not None, "the classifier is trained"
            return logits.detach().float(), gradient

        for precision, limit in LIMITS.items():
            against_plain(smoke, f"kernels in {backbone} {precision}", lambda: outputs(precision), limit)


def against_plain(
    smoke: Smoke,
    name: str,
    compute: Callable[[], tuple[torch.Tensor, ...]],
    limit: float,
    measure: Callable[[torch.Tensor, torch.Tensor], float] = difference,
) -> None:
    """`compute` by the Triton kernels and by their plain definitions, float32 without TF32."""

    def compare() -> dict[str, Any]:
        with tf32(False):
            found = compute()
            with force("plain"):
                wanted = compute()
        error = max(measure(a, b) for a, b in zip(found, wanted, strict=True))
        return {"ok": error <= limit, "difference": error, "limit": limit}

    if smoke.device == "cpu":
        smoke.leave_out(name, "Triton needs a GPU: there are only the plain definitions")
    else:
        smoke.line(name, compare)


def map_lines(smoke: Smoke, backbones: tuple[str, ...]) -> None:
    """CAMs, the dense CRF and the random walk: what turns a classifier into labels."""
    height, width = smoke.sizes.image
    classes = torch.tensor([[0, 3], [3, 7]], device=smoke.device)
    scaled = [picture(smoke, 4, round(height * scale), round(width * scale)) for scale in smoke.sizes.scales]
    images = Images(height, width, scaled, classes)
    for backbone in backbones:
        model = models.make_pplfast(case(backbone, "ppl"), smoke.device).eval()

        def cams(bf16: bool) -> dict[str, Any]:
            maps = pplfast_cams(model, images, bf16)
            low, high = float(maps.min()), float(maps.max())
            return {"ok": low >= 0 and 0.99 < high <= 1.001, "lowest": low, "highest": high}  # false for NaN

        def respond() -> dict[str, Any]:
            models.let_classes_respond(model, scaled[-1][:2], classes)
            return {}

        smoke.line(f"let classes respond in {backbone}", respond)
        for precision in ("fp32", "bf16"):
            smoke.line(f"CAMs of 2 images {backbone} {precision}", lambda: cams(precision == "bf16"))
        against_plain(
            smoke, f"CAMs of 2 images {backbone} kernels bf16", lambda: (pplfast_cams(model, images, True),), CAM_LIMIT
        )

    pixels = (scaled[0][:2, :, :, :].clamp(-1, 1) * 100 + 120).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    energy = -torch.rand(2, 4, *pixels.shape[1:3], device=smoke.device).softmax(1).log()
    terms = CrfTerms(3, 3, 80, 13, 10, 10)

    def crf() -> torch.Tensor:
        return mean_field(pixels, energy, terms)

    smoke.line("dense CRF of 2 images", lambda: {"ok": bool(torch.isfinite(crf()).all())})
    against_plain(
        smoke,
        "dense CRF kernels",
        lambda: (crf(),),
        LABEL_LIMIT,
        lambda a, b: float((a.argmax(1) != b.argmax(1)).float().mean()),
    )
    grid = (-(-height // 4), -(-width // 4))
    x, edge = (torch.from_numpy(a)[None].to(smoke.device) for a in (blobs(2, grid, 0), random_edges(grid, 0)))
    smoke.line("random walk", lambda: {"ok": bool(torch.isfinite(random_walk(x, edge, 256)).all())})
    against_plain(smoke, "random walk kernels", lambda: (random_walk(x, edge, 256),), WALK_LIMIT)


def loss_lines(smoke: Smoke, backbones: tuple[str, ...]) -> None:
    """Steps of the boundary and the segmentation network. Their losses are in train/, which needs DALI."""
    batch, side = smoke.sizes.train
    masks = torch.randint(0, 3, (batch, side // 32, side // 32), generator=torch.Generator().manual_seed(3))
    masks = masks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    masks[:, :8] = 255
    masks = masks.to(smoke.device)

    def boundary(backbone: str, precision: str) -> dict[str, Any]:
        from pplfast.train.affinity import affinity_losses

        model = BoundaryNet(create(backbone, "none")[0]).to(smoke.device)
        return optimizer_step(
            model, picture(smoke, batch, side, side), lambda logits: affinity_losses(logits, masks, 5).mean(), precision
        )

    def segmentation(backbone: str, precision: str) -> dict[str, Any]:
        from pplfast.train.segmentation import pixel_losses

        model = SegmentationNet(create(backbone, "none")[0], CLASSES + 1).to(smoke.device)
        model.backbone.freeze(model.backbone.frozen_default)

        def loss(logits: torch.Tensor) -> torch.Tensor:
            return pixel_losses(logits, model.cells, masks, True).mean()

        return optimizer_step(model, picture(smoke, batch, side, side), loss, precision)

    for backbone in backbones:
        for precision in ("bf16", "fp32"):
            smoke.line(f"boundary {backbone} {precision}", lambda: boundary(backbone, precision))
            smoke.line(f"segmentation {backbone} {precision}", lambda: segmentation(backbone, precision))


LINES = dict(zip(GROUPS, (train_lines, kernel_lines, map_lines, loss_lines), strict=True))


def run(smoke: Smoke, groups: tuple[str, ...] = GROUPS, backbones: tuple[str, ...] = tuple(CUTS)) -> None:
    for group in groups:
        LINES[group](smoke, backbones)
    smoke.write(complete=True)
    print(
        f"{len(smoke.lines)} lines, {len(smoke.failed)} failed"
        + (": " + "; ".join(smoke.failed) if smoke.failed else ""),
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.gpu_smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small images, for a CPU")
    parser.add_argument("--only", choices=GROUPS, nargs="+", default=GROUPS, help="groups of lines (default: all)")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; without one: --device cpu --tiny")
    smoke = Smoke(args.device, TINY if args.tiny else FULL, args.out)
    run(smoke, tuple(args.only))
    return 1 if smoke.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
