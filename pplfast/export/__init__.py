"""Labels in the formats of other tools.

`run`: `export_labels`, the whole of it. `convert`: one image. `source`: which label PNGs, and of which data set, a path
means. `labels`: where each is, and their classes. `formats`: the formats by name. `format`: what one is; each has a
module of its own, or shares it with its like. `images`: images within an export. `regions`: regions and their
outlines. `brush`: the bits of Label Studio's masks.
"""
