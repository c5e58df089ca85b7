"""The steps of one variant, each done once, and its figures."""

from pathlib import Path
from typing import Any

from pplfast.cluster.ranks import Ranks
from pplfast.run.config import Lists, RunConfig
from pplfast.run.facts import facts_summary
from pplfast.run.steps import Announce, Steps
from pplfast.run.work import Work
from pplfast.steps import FIGURES, SCORES, STEPS, TRAIN, steps_of


def output_files(config: RunConfig) -> list[Path]:
    """A name in every folder that the steps of a run write to or delete."""
    folders = [config.out / "steps"]
    for variant in config.variants:
        outputs = [config.out / variant / step.output for step in STEPS if step.kind != FIGURES]
        folders += [config.out / variant, config.out / variant / "steps", *outputs]
    return [folder / "name" for folder in folders]


def run_variant(config: RunConfig, variant: str, lists: Lists, ranks: Ranks, announce: Announce) -> dict[str, Any]:
    """Do what is not done yet of a variant in `config.out/<variant>`, on all ranks; its part of summary.json.

    What an earlier run made of steps that this one does not have stays where it is.
    """
    folder = config.out / variant
    work, steps = Work(config, variant, lists, folder, ranks, announce), Steps(folder, ranks, announce)
    for step in steps_of(lists.parts(config.recipe)):
        settings, action = work.prepare(step)
        work.results[step.name] = steps.run(step.name, settings, action, folder / step.output, step.kind)
    return _summary(work)


def _summary(work: Work) -> dict[str, Any]:
    """mIoU in percent, None without masks. label_miou is of the CAMs' labels, after the CRF if there is one."""
    results, label = work.results, work.label("label")

    def value(step: str, key: str) -> Any:
        return results[step].values[key] if step in results else None

    figures = {step.figure: value(step.name, "miou") for source, step in SCORES.items() if source in results}
    final = "labels_crf" if "labels_crf" in results else "labels"
    return {
        **figures,
        "label_miou": figures[SCORES[final].figure],
        "cam_threshold": value("eval_cam", "threshold"),
        "background": f"{label.background} {label.value:g}",
        "crf": label.crf,
        "images_without_label": value(final, "missing"),
        "without_masks": facts_summary(
            {name: result.values for name, result in results.items()}, work.decided(), len(work.lists.sets[TRAIN])
        ),
        "seconds": {name: result.seconds for name, result in results.items()},
        "images_per_second": {
            name: result.values["images_per_second"]
            for name, result in results.items()
            if result.values.get("images_per_second")
        },
    }
