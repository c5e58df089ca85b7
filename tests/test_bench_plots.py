"""The chart of every committed results file: what its texts and axes say, not its pixels."""

import json
import re
from pathlib import Path

import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex

from pplfast.benchmarks import plots

FILES = sorted(plots.RESULTS.glob("*.json"))


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(name: str, **changes):
    figure = plots.draw(json.loads((plots.RESULTS / f"{name}.json").read_text()) | changes)
    figure.canvas.draw()
    return figure


def texts(axes) -> dict[str, list[str]]:
    legend = axes.get_legend()
    return {
        "title": axes.get_title("left").split("\n"),
        "x": [label.get_text() for label in axes.get_xticklabels()],
        "y": [label.get_text() for label in axes.get_yticklabels()],
        "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_results_file_has_a_readable_chart(path):
    figure = drawn(path.stem)
    for axes in figure.axes:
        found = texts(axes)
        assert found["title"][0]
        for labels, longest in ((found["y"], 50), (found["legend"], 70)):
            assert len(set(labels)) == len(labels)
            assert all(len(line) <= longest for label in labels for line in label.split("\n"))
            assert not any(re.search(r"_(bf16|cached|first|only|miou)", label) for label in labels)
        if axes.get_legend():
            box = axes.get_legend().get_window_extent()
            assert not any(box.overlaps(other.get_window_extent().padded(-1)) for other in figure.axes)
        sizes = [label.get_fontsize() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        assert min(sizes) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_chart_is_among_the_documentation(path):
    text = (plots.PLOTS / f"{path.stem}.svg").read_text()
    figure = drawn(path.stem)
    title = figure.axes[0].get_title("left").split("\n")[0]
    assert title in text.replace("&gt;", ">").replace("&amp;", "&")  # text stays text
    assert len(text) < 60_000


@pytest.mark.slow
def test_a_training_benchmark_is_drawn_over_the_positions():
    figure = drawn("cpu_train")
    upper, lower = (texts(axes) for axes in figure.axes)
    assert upper["title"] == ["Training step, efficientnet_lite0 stride 32, 256x256 batch 8 K=2"]
    assert lower["title"] == ["Training step, efficientnet_lite0 256x256 batch 8 K=2"]
    assert upper["x"] == [f"group{number}" for number in range(1, 8)]
    assert upper["legend"] == [
        "pplfast, float32, against plain PyTorch, float32",
        "pplfast, bf16, against plain PyTorch, float32",
        "pplfast, bf16, against plain PyTorch, tuned: bf16, channels_last",
    ]
    values = json.loads((plots.RESULTS / "cpu_train.json").read_text())["ratios"]
    first = next(row for row in values if row["case"].endswith("stride 32, 256x256 batch 8 K=2 after group1"))
    assert figure.axes[0].containers[0].lines[0].get_ydata()[0] == first["ratio"]["median"]


def test_one_ratio_is_drawn_as_its_two_times():
    (axes,) = drawn("cpu_walk").axes
    assert texts(axes)["y"] == ["dense transition matrix", "pplfast, float32"]
    (row,) = json.loads((plots.RESULTS / "cpu_walk.json").read_text())["ratios"]
    assert texts(axes)["title"][1] == f"{row['ratio']['median']:,.0f} times as fast, goal 1000"
    assert axes.get_xscale() == "log" and axes.get_xlabel().startswith("ms per call")
    (axes,) = drawn("cpu_avx2_label").axes
    assert axes.get_xscale() == "linear" and axes.get_xlabel().startswith("s per call")


def test_bars_name_what_is_compared_once():
    (axes,) = drawn("cpu_kernels").axes
    assert texts(axes)["title"] == [
        "Kernels, efficientnet_lite0 256x256 batch 8 K=2 float32",
        "pplfast, against plain PyTorch",
    ]
    assert texts(axes)["y"][:2] == ["patch_split", "patch_split_act"]
    (axes,) = drawn("cpu_cam").axes
    assert texts(axes)["y"][2] == "pplfast, bf16\nagainst plain PyTorch, tuned: bf16, channels_last"
    assert "red: goal" in axes.get_xlabel() and len(axes.patches) == 3


def test_predicted_scaling_has_a_chart_per_network_and_a_colour_per_setting():
    figure = drawn("predicted_scaling")
    assert texts(figure.axes[0])["title"][0].startswith("Computed, not measured")
    assert ["400 Gb/s" in axes.get_title("left") for axes in figure.axes] == [False, True]
    for axes in figure.axes:
        assert len({to_hex(line.get_color()) for line in axes.lines}) == len(axes.lines) == 3
    assert texts(figure.axes[0])["legend"] == [
        "ZeRO 1, fp32 reduction", "ZeRO 1, bf16 reduction", "ZeRO 0, fp32 reduction",
    ]  # fmt: skip


def test_runs_are_drawn_as_the_mean_of_their_seeds():
    (axes,) = drawn("voc_lite0_seg_cpu").axes
    assert texts(axes)["x"] == ["CAMs", "labels,\nCRF", "labels,\nwalk", "segmentation\nnetwork"]
    assert [round(bar.get_height(), 2) for bar in axes.patches] == [56.76, 61.20, 65.72, 66.82]
    (axes,) = drawn("demo_cpu").axes
    assert texts(axes)["legend"] == ["plain classifier", "progressive patches", "explicit patches"]


def test_the_tuned_reference_names_the_compiler_where_it_was_used():
    values = json.loads((plots.RESULTS / "cpu_cam.json").read_text())
    assert plots.contestant("tuned", values) == "plain PyTorch, tuned: bf16, channels_last"
    values |= {"compile": True, "skipped": []}
    assert plots.contestant("tuned", values) == "plain PyTorch, tuned: bf16, channels_last, torch.compile"


def test_the_common_part_of_cases():
    assert plots.shared(["preset a, V, 6 images", "preset b, V, 6 images"]) == ("V, 6 images", ["preset a", "preset b"])
    assert plots.shared(["net, x, fp32", "net, x, bf16"]) == ("net, x", ["fp32", "bf16"])
    assert plots.shared(["split net 8", "pool net 8"]) == ("net 8", ["split", "pool"])
    assert plots.shared(["same, case", "same, case"]) == ("same, case", ["", ""])


@pytest.mark.slow
def test_the_command_draws_files_and_refuses_what_is_none(tmp_path, capsys):
    assert plots.main([str(plots.RESULTS / "cpu_walk.json"), "--out", str(tmp_path / "deep" / "plots")]) == 0
    path = tmp_path / "deep" / "plots" / "cpu_walk.svg"
    assert capsys.readouterr().out.strip() == str(path)
    first = path.read_bytes()
    plots.main([str(plots.RESULTS / "cpu_walk.json"), "--out", str(path.parent)])
    assert path.read_bytes() == first  # no dates, no random ids: a diff means another chart
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert plots.main([str(tmp_path / "x.json"), "--out", str(tmp_path)]) == 2
    assert "x.json: not a results file that has a chart" in capsys.readouterr().err
    assert sorted(plots.PLOTS.glob("*.svg")) == [Path(plots.PLOTS / f"{file.stem}.svg") for file in FILES]
