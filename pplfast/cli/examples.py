"""The examples at the end of each command's help: (what it does, the command). A test parses every one.

They tell one story: photos, labels.csv, a classifier in runs/ppl, maps in cams, and a whole run in runs/photos.
"""

LISTED = "--data photos --labels labels.csv"  # enough where a network knows the classes
PHOTOS = f"{LISTED} --classes cat,dog"
VOC = "--data VOCdevkit/VOC2012"
COCO = "annotations/instances_val2017.json"

CHECK = ("photos in a folder, labels in a CSV with the lines image,label;label", f"pplfast data check {PHOTOS}")
DEMO = ("240 training and 60 validation images", "pplfast data demo --out demo")
OWN = (
    "your own photos, in a folder for each class, or with a labels.csv among them",
    "pplfast run --data photos --out runs/photos",
)
LOOK = ("labels among the photos, and a page to look at", "pplfast data check --data photos --sheet photos.html")
EDGES = (
    "boundaries from them",
    f"pplfast refine train {LISTED} --model runs/ppl --pngs sure --recipe own-images --out runs/edges",
)
WALK = ("the walk", f"pplfast refine walk {LISTED} --model runs/edges --cams cams --out walked")
SEGMENT = ("on label PNGs", f"pplfast segment train {PHOTOS} --pngs labels --recipe own-images --out runs/seg")
NEW = (
    "label new photos with the network of a run",
    "pplfast segment test --data new-photos --model runs/photos --out new-labels",
)

PREDICT = (
    "a folder of photos, labels drawn over them",
    "pplfast predict new-photos --model runs/photos --out new-labels --overlay",
)

EXAMPLES = {
    "": (
        ("a demo data set", "pplfast data demo --out demo"),
        ("the whole chain on it", "pplfast run --data demo --recipe demo --out runs/demo"),
        OWN,
    ),
    "data": (DEMO, CHECK),
    "data demo": (
        DEMO,
        ("a small one, of other scenes", "pplfast data demo --out demo-small --train 40 --val 10 --seed 1"),
    ),
    "data check": (
        LOOK,
        CHECK,
        ("a list of a VOC layout", f"pplfast data check {VOC} --list train"),
        ("without labels, the report as JSON", "pplfast data check --data photos --labels none --json check.json"),
    ),
    "data index": (
        ("tar shards in a bucket", "pplfast data index --data s3://bucket/crops"),
        ("some of them", "pplfast data index --data 's3://bucket/crops/train-{000..099}.tar' --index crops.arrow"),
    ),
    "data masks": (
        ("of COCO", f"pplfast data masks --data val2017 --labels {COCO} --out masks"),
        ("of two categories", f"pplfast data masks --data val2017 --labels {COCO} --classes cat,dog --out masks-pets"),
    ),
    "init": (
        ("a folder for each class, or a labels.csv in the folder", "pplfast init --data photos"),
        ("labels of COCO", "pplfast init --data val2017 --labels annotations/instances_val2017.json --out coco.toml"),
    ),
    "recipes": (
        ("what there is", "pplfast recipes"),
        ("read one", "pplfast recipes own-images"),
        ("a copy to change, for --recipe my.toml", "pplfast recipes own-images > my.toml"),
    ),
    "run": (
        OWN,
        ("what that would do", f"{OWN[1]} --dry-run"),
        ("the demo data set, three seeds", "pplfast run --data demo --recipe demo --seeds 0-2 --out runs/demo"),
        (
            "PASCAL VOC, with longer training of the segmentation network",
            f"pplfast run {VOC} --recipe voc-lite0-seg --set segmentation.epochs=12 --out runs/voc",
        ),
    ),
    "sweep": (
        (
            "two learning rates, three seeds each",
            f"pplfast sweep {PHOTOS} --masks masks --variants ppl --vary optim.lr=0.005,0.01 --out sweeps/lr",
        ),
        (
            "the best of each, chosen by one half of the images, on the other",
            f"pplfast sweep {PHOTOS} --masks masks --variants plain,ppl --vary optim.lr=0.005,0.01 --seeds 0-4 "
            "--choose-on 0.5 --out sweeps/variants",
        ),
        (
            "whole lists of stages, two runs at a time",
            f"pplfast sweep {PHOTOS} --masks masks --variants ppl --at-once 2 --out sweeps/cuts "
            "--point 'low: stages.0.position=group3 stages.0.grid=4' --point 'high: stages.0.position=group5'",
        ),
    ),
    "train": (
        ("progressive patch learning", f"pplfast train {PHOTOS} --recipe own-images --out runs/ppl"),
        ("without patches", f"pplfast train {PHOTOS} --recipe own-images --variant plain --out runs/plain"),
        ("on all GPUs of this machine", f"pplfast launch train {PHOTOS} --recipe own-images --out runs/ppl"),
    ),
    "cam": (
        ("with a classifier of your own", f"pplfast cam {LISTED} --model runs/ppl --out cams"),
        ("with that of a run, fast", f"pplfast cam {LISTED} --model runs/photos --scales 1 --no-flip --out cams-fast"),
    ),
    "label": (
        ("images to labels with a classifier", f"pplfast label {LISTED} --model runs/ppl --out labels"),
        ("the same on eight GPUs", f"pplfast launch --ranks 8 label {LISTED} --model runs/ppl --out labels"),
        ("from CAM files, to try other settings", f"pplfast label {PHOTOS} --cams cams --value 0.3 --out labels-030"),
    ),
    "predict": (
        PREDICT,
        ("one image", "pplfast predict photo.jpg --model runs/photos --out one"),
        (
            "fast: one scale, no CRF",
            "pplfast predict new-photos --model runs/photos --scales 1 --no-flip --crf none --out fast",
        ),
        (
            "tar shards in a bucket",
            "pplfast predict 's3://bucket/crops/*.tar' --model runs/photos --out s3://bucket/labels",
        ),
    ),
    "refine": (EDGES, WALK),
    "refine train": (
        (
            "confident labels first, 255 where unsure",
            f"pplfast label {LISTED} --model runs/ppl --unsure 0.05,0.30 --crf labels --out sure",
        ),
        EDGES,
    ),
    "refine walk": (
        WALK,
        (
            "with the network of a run, fewer steps",
            f"pplfast refine walk {LISTED} --model runs/photos --cams cams --steps 64 --out walked-64",
        ),
    ),
    "segment": (("train " + SEGMENT[0], SEGMENT[1]), NEW),
    "segment train": (
        SEGMENT,
        (
            "for longer",
            f"pplfast segment train {PHOTOS} --pngs labels --recipe own-images --set segmentation.epochs=30 "
            "--out runs/seg-30",
        ),
    ),
    "segment test": (
        NEW,
        (
            "fast: one scale, no CRF",
            "pplfast segment test --data new-photos --model runs/seg --scales 1 --no-flip --crf none --out fast",
        ),
    ),
    "eval": (
        ("CAMs, with the best background threshold", "pplfast eval --data demo --list val --cams demo-cams"),
        ("small, medium and large objects too", "pplfast eval --data demo --list val --cams demo-cams --by-size"),
        ("label PNGs, scores as JSON", "pplfast eval --data demo --list val --pngs demo-labels --out scores.json"),
        ("true masks in a folder of their own", f"pplfast eval {PHOTOS} --masks masks --pngs labels"),
    ),
    "report": (
        ("again, with more images", "pplfast report runs/photos --images 24"),
        ("elsewhere", "pplfast report runs/photos --out photos.html"),
    ),
    "export": (
        ("the final labels of a run, for Ultralytics", "pplfast export runs/photos --format yolo --out photos-yolo"),
        (
            "label PNGs that lie in no run, images linked, not copied",
            "pplfast export new-labels --data new-photos --format mmseg --link-images --out new-mmseg",
        ),
    ),
    "export-model": (
        ("ONNX, for onnxruntime", "pplfast export-model --model runs/photos --out photos-onnx"),
        ("for torch.export.load", "pplfast export-model --model runs/seg --format torch --out photos-pt2"),
    ),
    "submit": (
        ("labels of the test list", f"pplfast submit {VOC} --pngs test-labels --out results.tar.gz"),
        ("a trial on val", f"pplfast submit {VOC} --list val --pngs val-labels --out val.tar.gz"),
    ),
    "launch": (
        (
            "all GPUs of this machine, started again up to three times",
            f"pplfast launch --restarts 3 train {PHOTOS} --recipe own-images --out runs/ppl",
        ),
        ("several hosts", f"pplfast launch --hostfile hosts label {LISTED} --model runs/ppl --out labels"),
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
