"""The report of a run folder that is made here: truth, blurred into CAMs."""

import json
import math
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from report_runs import CLASSES, Page, make_data, make_run

from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.errors import UserError
from pplfast.files import write_json
from pplfast.labels.overlay import display_palette, labels_over
from pplfast.report import write_report
from pplfast.report.charts import Series, line_chart, smooth, ticks
from pplfast.report.gallery import choose


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataConfig, Dataset]:
    root = tmp_path_factory.mktemp("report")
    config = make_data(root / "data")
    dataset = open_dataset(config)
    make_run(root / "run", config, dataset, {"plain": 0.8, "ppl": 0.2})
    return root / "run", config, dataset


def test_the_page_is_complete_and_refers_to_nothing_outside(finished):
    run, _, dataset = finished
    text = write_report(run, images=3).read_text()
    page = Page(text)
    own = [int(dataset.labels[index].sum()) for index in choose(dataset, 3)]
    steps = sum(2 + 2 * (classes + 2) for classes in own)  # image, truth; 2 x (CAMs, 2 labels)
    assert page.counts["img"] == steps + 3 * len(dataset)  # small; large, with the image
    assert page.counts["svg"] == 2
    embedded = [value for value in page.references if value.startswith("data:image/jpeg;base64,")]
    links = set(page.references) - set(embedded)
    assert len(embedded) == page.counts["img"] and "report/page-001.html" in links
    assert all((run / unquote(value)).is_file() for value in links)
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)
    assert "Content-Security-Policy" in text.partition("<title>")[0] and "default-src &#x27;none&#x27;" in text
    assert "im&amp;age_0" in text and "a&lt;b/train" in text


def test_the_figures_of_the_summary_are_shown(finished):
    run, _, _ = finished
    summary = json.loads((run / "summary.json").read_text())
    text = write_report(run, images=1).read_text()
    gain = summary["ppl"]["cam_miou"] - summary["plain"]["cam_miou"]
    assert gain > 5
    assert f"{gain:+.1f}</span> over plain" in text
    assert f"<b>{summary['ppl']['label_miou']:.1f}</b>" in text
    assert "1.1 min" in text and "1 h 8 min" in text  # 63 s of training; 4075.5 s in total for a variant


def test_without_masks_the_page_says_so(tmp_path):
    config = make_data(tmp_path / "data", 2)
    dataset = open_dataset(config)
    make_run(tmp_path / "run", config, dataset, {"ppl": 0.0})
    bare = DataConfig(config.root, labels=config.labels, classes=CLASSES)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    write_json(tmp_path / "run" / "run.json", run | {"data": {"val": vars(bare)}})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for key in ("cam_miou", "cam_threshold", "label_before_crf_miou", "label_miou"):
        summary["ppl"][key] = None
    summary["data"]["val"]["scored"] = 0
    facts = {"images": 60, "foreground": 78.0, "almost_all": 21, "declared": 80, "empty": 3, "absent": 4.0}
    unlabelled = facts | {"almost_all": 0, "declared": None, "empty": None, "absent": None}
    summary["ppl"]["without_masks"] = {"labels_walk": facts, "predictions": unlabelled}
    summary["warnings"] = ["ppl: 21 of 60 are <all> foreground"]
    write_json(tmp_path / "run" / "summary.json", summary)
    for path in (tmp_path / "run" / "ppl").glob("eval_*.json"):
        path.unlink()
    text = write_report(tmp_path / "run").read_text()
    assert "no masks to score against" in text and "<figcaption>truth" not in text
    assert "not scored" not in text and "<h2>Results" not in text and "mIoU" not in text
    assert "21 of 60 are &lt;all&gt; foreground" in text and ">labels after the random walk</td>" in text
    assert re.findall(r'<td class="bad">([^<]*)', text) == ["21 of 60"] and "<td>3 of 80</td><td>4.0 %</td>" in text
    assert text.count("<td>no image labels</td>") == 2
    Page(text)


def test_the_gallery_shows_every_label_that_the_run_made_and_none_of_an_earlier_one(finished, tmp_path):
    run, _, dataset = finished
    shutil.copytree(run, tmp_path / "run")
    name = dataset.ids[choose(dataset, 1)[0]]
    for folder in ("labels_walk", "predictions"):
        (tmp_path / "run" / "ppl" / folder).mkdir()
        shutil.copy(run / "ppl" / "labels" / f"{name}.png", tmp_path / "run" / "ppl" / folder / f"{name}.png")
    assert "segmentation network" not in write_report(tmp_path / "run", images=1).read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["ppl"]["seconds"] |= {"labels_walk": 1.0, "predictions": 1.0}
    write_json(tmp_path / "run" / "summary.json", summary)
    text = write_report(tmp_path / "run", images=1).read_text()
    captions = re.findall(r"<figcaption>((?:labels|segm)[^<]*)", text.split("<h2>Examples")[1])
    assert captions[:2] == ["labels without CRF", "labels after the CRF"]  # of plain
    assert captions[4:] == ["labels after the random walk", "segmentation network"]


def test_cams_of_another_class_list_are_not_shown_under_wrong_names(finished, tmp_path):
    run, _, _ = finished
    shutil.copytree(run, tmp_path / "run")
    write_json(tmp_path / "run" / "ppl" / "cams" / "settings.json", {"class_names": ["dog", "cat"]})
    text = write_report(tmp_path / "run", images=1).read_text()
    assert "was made for the classes dog,cat, not cat,dog" in text
    assert text.count("<figcaption>CAM ") == write_report(run, images=1).read_text().count("<figcaption>CAM ") / 2


def test_each_figure_has_the_name_of_its_step(finished, tmp_path):
    run, _, _ = finished
    shutil.copytree(run, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    summary["ppl"] |= {"walk_label_miou": 91.25, "segmentation_miou": 93.75}
    write_json(tmp_path / "run" / "summary.json", summary)
    write_json(tmp_path / "run" / "ppl" / "eval_label_walk.json", json.loads((run / "ppl/eval_label.json").read_text()))
    text = write_report(tmp_path / "run", images=1).read_text()
    heads = re.findall(r"<th>mIoU of the ([^<]*)", text)
    assert heads == [
        "CAMs", "labels without CRF", "labels after the CRF", "labels after the random walk", "segmentation network",
    ]  # fmt: skip
    assert "final" not in text.split("<body>")[1] and "<b>93.8</b><span>mIoU of the segmentation network" in text
    heads = re.findall(r"</span>ppl</span><br>([^<]*)</th>", text)
    assert heads == ["CAMs", "after CRF", "after walk"]


def test_without_crf_no_figure_claims_one(finished, tmp_path):
    run, _, _ = finished
    shutil.copytree(run, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    for name in ("plain", "ppl"):
        summary[name]["crf"] = "none"
        (tmp_path / "run" / name / "eval_label_crf.json").unlink()
    write_json(tmp_path / "run" / "summary.json", summary)
    text = write_report(tmp_path / "run", images=1).read_text().split("<h2>Examples")[0].split("<h2>Results")[1]
    assert "after the CRF" not in text and "after CRF" not in text
    assert "<th>mIoU of the labels without CRF" in text


def test_every_table_can_scroll_and_every_chart_keeps_its_type(finished):
    text = write_report(finished[0], images=1).read_text()
    assert text.count("<table") == text.count('<div class="scroll" tabindex="0"><table') >= 4
    assert text.count("<svg") == text.count('<div class="plot"><svg') == 2


def test_colours_shown_are_light_enough_and_differ():
    colours = display_palette()[1:21].astype(float)
    assert (colours @ [0.299, 0.587, 0.114]).min() > 58  # VOC's navy has 15
    distances = np.abs(colours[:, None] - colours[None]).sum(-1)[~np.eye(20, dtype=bool)]
    assert distances.min() >= 50
    assert display_palette()[0].tolist() == [0, 0, 0]


def test_labels_are_drawn_with_their_border():
    labels = np.zeros((6, 6), np.uint8)
    labels[1:5, 1:5] = 4
    pixels = labels_over(np.full((6, 6, 3), 100, np.uint8), labels)
    white = (pixels == 255).all(-1)
    assert white.sum() == 12 and not white[2:4, 2:4].any() and white[1, 1:5].all()


def test_a_missing_image_is_named_and_the_rest_is_shown(tmp_path):
    config = make_data(tmp_path / "data", 3)
    dataset = open_dataset(config)
    make_run(tmp_path / "run", config, dataset, {"plain": 0.0})
    dataset.images[1].unlink()
    (tmp_path / "run" / "plain" / "cams" / f"{dataset.ids[2]}.npz").write_bytes(b"broken")
    text = write_report(tmp_path / "run").read_text()
    assert Page(text).counts["article"] == 2  # its labels are shown without the maps
    assert "not a readable CAM file" in text and "no such file" in text


@pytest.mark.parametrize("missing", ["run.json", "summary.json"])
def test_an_unfinished_run_is_refused(tmp_path, missing):
    for name in {"run.json", "summary.json"} - {missing}:
        write_json(tmp_path / name, {})
    with pytest.raises(UserError, match=missing):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_gallery_images_are_spread_over_the_list(finished):
    _, _, dataset = finished
    assert choose(dataset, 2) == [1, 3]
    assert choose(dataset, 99) == [0, 1, 2, 3]


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(51.3, 58.9) == [52, 54, 56, 58]
    assert ticks(3, 3) == [3]


def test_charts_leave_out_what_is_not_finite():
    text = str(line_chart([Series("a", "s-ppl", [1, 2, 3], [1.0, math.nan, 2.0])], "x", "y"))
    assert "nan" not in text and text.count("<polyline") == 1
    assert not line_chart([Series("a", "s-ppl", [], [])], "x", "y")


def test_smoothing_is_a_running_mean():
    assert smooth([1, 3, 5, 7], 2) == [1, 2, 4, 6]
