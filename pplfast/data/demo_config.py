"""What decides a demo data set. Apart from its making, so that the command line's help needs no numpy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoConfig:
    seed: int = 0
    train: int = 240
    val: int = 60
    size: int = 224  # pixels, long side
