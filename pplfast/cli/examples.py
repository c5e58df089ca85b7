"""The examples at the end of each command's help: (what it does, the command). A test parses every one."""

PHOTOS = "--data photos --labels labels.csv --classes cat,dog"
DEMO = "--data demo --list"

EXAMPLES = {
    "": (
        ("a demo data set, and the whole chain on it", "pplfast data demo --out demo"),
        ("then", "pplfast run --data demo --recipe demo --out runs/demo"),
        ("your own photos, with a CSV of image,label;label", f"pplfast run {PHOTOS} --out runs/photos"),
    ),
    "data": (
        ("a demo data set", "pplfast data demo --out demo"),
        ("look at your own", f"pplfast data check {PHOTOS}"),
    ),
    "data demo": (
        ("240 training and 60 validation images", "pplfast data demo --out demo"),
        ("a small one, of other scenes", "pplfast data demo --out demo-small --train 40 --val 10 --seed 1"),
    ),
    "data check": (
        ("a folder of photos, labels in a CSV with the lines image,label;label", f"pplfast data check {PHOTOS}"),
        ("a list of a VOC layout", "pplfast data check --data VOCdevkit/VOC2012 --list train"),
        ("without labels, the report as JSON", "pplfast data check --data photos --labels none --json check.json"),
    ),
    "recipes": (
        ("what there is", "pplfast recipes"),
        ("read one", "pplfast recipes own-images"),
        ("a copy to change, for --recipe my.toml", "pplfast recipes own-images > my.toml"),
    ),
    "run": (
        ("your own photos", f"pplfast run {PHOTOS} --out runs/photos"),
        ("the demo data set, three seeds", "pplfast run --data demo --recipe demo --seeds 0-2 --out runs/demo"),
        (
            "PASCAL VOC, longer training",
            "pplfast run --data VOCdevkit/VOC2012 --recipe voc-lite0-seg --set segmentation.epochs=12 --out runs/voc",
        ),
    ),
    "train": (
        ("progressive patch learning on the demo set", f"pplfast train {DEMO} train --recipe demo --out runs/ppl"),
        ("the same without patches", f"pplfast train {DEMO} train --recipe demo --variant plain --out runs/plain"),
        (
            "all GPUs of this machine",
            f"pplfast launch train {PHOTOS} --recipe own-images --out runs/photos-ppl",
        ),
    ),
    "cam": (
        ("with the classifier of a run", f"pplfast cam {DEMO} val --model runs/demo/ppl --out cams"),
        (
            "one scale, fast",
            f"pplfast cam {DEMO} val --model runs/ppl --scales 1 --no-flip --out cams-fast",
        ),
    ),
    "label": (
        (
            "images to labels with the classifier of a run",
            "pplfast label --data photos --labels labels.csv --model runs/photos --out photos-labels",
        ),
        (
            "the same on eight GPUs",
            "pplfast launch --ranks 8 label --data photos --labels labels.csv --model runs/photos --out photos-labels",
        ),
        (
            "from CAM files, which can be tuned in seconds",
            f"pplfast label {DEMO} val --cams cams --value 0.2 --out labels",
        ),
    ),
    "refine": (
        (
            "boundaries from confident labels",
            f"pplfast refine train {DEMO} train --model runs/ppl --pngs sure --recipe voc-lite0-seg --out runs/edges",
        ),
        ("the walk", f"pplfast refine walk {DEMO} val --model runs/edges --cams cams --out walked"),
    ),
    "refine train": (
        (
            "the confident labels first, 255 where unsure",
            f"pplfast label {DEMO} train --model runs/ppl --unsure 0.05,0.30 --crf labels --out sure",
        ),
        (
            "then the boundary network",
            f"pplfast refine train {DEMO} train --model runs/ppl --pngs sure --recipe voc-lite0-seg --out runs/edges",
        ),
    ),
    "refine walk": (
        ("with a network of your own", f"pplfast refine walk {DEMO} val --model runs/edges --cams cams --out walked"),
        (
            "with that of a run, fewer steps",
            "pplfast refine walk --data photos --model runs/photos --cams cams --steps 64 --out walked",
        ),
    ),
    "segment": (
        (
            "train on label PNGs",
            f"pplfast segment train {DEMO} train --pngs labels --recipe voc-lite0-seg --out runs/seg",
        ),
        ("label new photos", "pplfast segment test --data new-photos --model runs/photos --out new-labels"),
    ),
    "segment train": (
        (
            "on the labels of any command",
            f"pplfast segment train {DEMO} train --pngs labels --recipe voc-lite0-seg --out runs/seg",
        ),
        (
            "on your own photos, for longer",
            f"pplfast segment train {PHOTOS} --pngs photos-labels --recipe own-images --set segmentation.epochs=30 "
            "--out runs/seg",
        ),
    ),
    "segment test": (
        (
            "label new photos with the network of a run",
            "pplfast segment test --data new-photos --model runs/photos --out new-labels",
        ),
        (
            "fast: one scale, no CRF",
            "pplfast segment test --data new-photos --model runs/seg --scales 1 --no-flip --crf none --out fast",
        ),
    ),
    "eval": (
        ("CAMs: the best background threshold", f"pplfast eval {DEMO} val --cams cams"),
        ("label PNGs, scores as JSON", f"pplfast eval {DEMO} val --pngs labels --out scores.json"),
        (
            "masks in a folder of their own",
            f"pplfast eval {PHOTOS} --masks masks --pngs photos-labels",
        ),
    ),
    "report": (
        ("again, with more images", "pplfast report runs/photos --images 24"),
        ("elsewhere", "pplfast report runs/photos/seed0 --out photos.html"),
    ),
    "submit": (
        (
            "labels of the test list",
            "pplfast submit --data VOCdevkit/VOC2012 --pngs runs/test-labels --out results.tar.gz",
        ),
        (
            "a dry run on val",
            "pplfast submit --data VOCdevkit/VOC2012 --list val --pngs runs/val-labels --out val.tar.gz",
        ),
    ),
    "launch": (
        (
            "all GPUs of this machine, started again up to three times",
            f"pplfast launch --restarts 3 train {PHOTOS} --recipe own-images --out runs/photos-ppl",
        ),
        (
            "several hosts",
            "pplfast launch --hostfile hosts label --data photos --labels labels.csv --model runs/photos "
            "--out photos-labels",
        ),
    ),
    "bench": (
        ("training steps, as JSON and plots", "pplfast bench train --out train.json"),
        ("does it work here", "pplfast bench all --quick"),
        ("what became slower", "pplfast bench compare before.json after.json"),
    ),
    "doctor": (
        ("what works here", "pplfast doctor"),
        ("for a bug report", "pplfast doctor --json"),
    ),
}
