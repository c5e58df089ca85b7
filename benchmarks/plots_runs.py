"""Charts of what is no ratio: scaling, mIoU of runs, a labelling job that is killed."""

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pplfast.charts import COLOURS, INK, machine, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANTS = {"plain": "plain classifier", "ppl": "progressive patches", "explicit": "explicit patches"}
FIGURES = (  # the names of a figure in results files, and what it is
    (("cam_miou",), "CAMs"),
    (("label_before_crf_miou",), "labels,\nno CRF"),
    (("label_miou", "label_crf_miou"), "labels,\nCRF"),
    (("walk_label_miou", "label_walk_miou"), "labels,\nwalk"),
    (("segmentation_miou",), "segmentation\nnetwork"),
    (("network_label_miou",), "labels,\nnetwork"),
)


def predicted_scaling(prediction: dict[str, Any]) -> "Figure":
    """Efficiency over the number of GPUs: one chart per network between the nodes, one line per setting."""
    rows = [row | dict(zip(("setting", "network"), row["variant"].rsplit(", ", 1))) for row in prediction["rows"]]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    counts = sorted({row["gpus"] for row in rows})
    figure, all_axes = new_figure([2.2] * len(networks))
    lowest = min(100 * row["efficiency"] for row in rows)
    for axes, network in zip(all_axes, networks, strict=True):
        for setting, colour, marker in zip(settings, COLOURS, "osD^vP"):
            own = [row for row in rows if (row["network"], row["setting"]) == (network, setting)]
            values = [100 * row["efficiency"] for row in own]
            axes.plot([row["gpus"] for row in own], values, marker=marker, color=colour, markersize=5, label=setting)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, map(str, counts))
        axes.set_ylim(max(0, 10 * (lowest // 10) - 5), 102)
        axes.set_ylabel("efficiency, %")
        axes.set_title(f"{network} between nodes of {prediction['gpus_per_node']} GPUs", loc="left", fontsize=10)
    all_axes[-1].set_xlabel("GPUs, the same batch on each")
    all_axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    first = all_axes[0].get_title("left")
    title = f"Computed, not measured: {prediction['work']['name']}\n{first}"
    all_axes[0].set_title(title, loc="left", fontsize=10)
    return figure


def measured_scaling(results: dict[str, Any]) -> "Figure":
    """Steps of two ranks on one machine: measured beside what the model of the prediction says."""
    rows = results["scaling"]
    figure, (axes,) = new_figure([0.3 + 0.55 * len(rows)])
    for place, row in enumerate(rows):
        measured, ratio = 1e3 * row["seconds"]["pair"]["median"], row["predicted_over_measured"]["median"]
        for shift, value, colour, label in (
            (-0.18, measured, COLOURS[0], "measured"),
            (0.18, measured * ratio, COLOURS[1], "predicted"),
        ):
            axes.barh(place + shift, value, height=0.34, color=colour, label=label if not place else None)
            axes.annotate(f"{value:.0f}", (value, place + shift), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [row["case"].replace(" K=", "\nK=") for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"ms per step of two ranks, median\n{machine(results)}")
    axes.set_title("The scaling model against two CPU ranks", loc="left", fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def miou(value: dict[str, Any]) -> "Figure":
    """mIoU by step and variant; a dot for each seed, a bar for their mean."""
    runs = list(value.get("runs", {"": value}).values())
    variants = [name for name in VARIANTS if any(name in run for run in runs)] or [""]
    figure, (axes,) = new_figure([2.8])
    width = 0.8 / len(variants)
    shown = [(keys, text) for keys, text in FIGURES if any(_values(runs, variant, keys) for variant in variants)]
    for number, variant in enumerate(variants):
        for place, (keys, _) in enumerate(shown):
            values, x = _values(runs, variant, keys), place + width * (number - (len(variants) - 1) / 2)
            if not values:
                continue
            mean = sum(values) / len(values)
            name = VARIANTS.get(variant, "progressive patches")
            axes.bar(x, mean, 0.92 * width, color=COLOURS[number], label=None if place else name)
            axes.annotate(f"{mean:.1f}", (x, max(values)), (0, 4), textcoords="offset points", ha="center", fontsize=8)
            if len(values) > 1:
                axes.plot([x] * len(values), values, ".", color=INK, markersize=4)
    axes.set_xticks(range(len(shown)), [text for _, text in shown])
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mIoU, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    seeds = f"mean of {len(runs)} seeds, a dot for each" if len(runs) > 1 else f"seed {runs[0].get('seed', 0)}"
    data = value.get("data") or runs[0].get("data")
    on = f" on {data['val']['images']} images of {data['val']['list']}" if data else ""
    axes.set_title(f"Recipe {value['recipe']}{on}: {seeds}", loc="left", fontsize=10)
    axes.set_xlabel(f"{value['date']}, {value['commit']}", fontsize=8)
    return figure


def _values(runs: list[dict[str, Any]], variant: str, keys: tuple[str, ...]) -> list[float]:
    parts = [run.get(variant) if variant else run for run in runs]
    return [float(part[key]) for part in parts if part for key in keys if part.get(key) is not None]


def kills(value: dict[str, Any]) -> "Figure":
    """Labels of a job over time, and where its ranks were killed."""
    figure, (axes,) = new_figure([2.6])
    ends = list(accumulate(leg["seconds"] for leg in value["legs"]))
    labels = list(accumulate(leg["labels"] for leg in value["legs"]))
    axes.plot([0, *ends], [0, *labels], color=COLOURS[0])
    for ranks, marker, colour in ((1, "v", COLOURS[4]), (value["ranks"], "X", COLOURS[1])):
        hit = [index for index, leg in enumerate(value["legs"]) if len(leg["killed"]) == ranks]
        text = "all ranks killed" if ranks == value["ranks"] else "one rank killed"
        axes.plot([ends[i] for i in hit], [labels[i] for i in hit], marker, color=colour, label=f"{text}: {len(hit)}")
    axes.set_xlabel(f"seconds\n{value['hardware']['cpu']}")
    axes.set_ylabel("labels written")
    axes.set_title(
        f"{value['images']:,} images on {value['ranks']} ranks, kill -9 {value['kills']} times: "
        f"{value['labels_correct_and_once']:,} labels, each correct and once",
        loc="left", fontsize=10,
    )  # fmt: skip
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure
