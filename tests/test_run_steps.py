"""Steps are done once, continue where they were cut off, and are redone when what they depend on has changed."""

import json

import pytest
import torch
from train_data import without_steps

from pplfast.cluster.ranks import Ranks
from pplfast.errors import UserError
from pplfast.run.steps import Steps
from pplfast.steps import FACTS, JOB, LABELS, SCORES, SHOWN, STEPS, TRAINING, Parts, steps_of

ALONE = Ranks(0, 1, 1, torch.device("cpu"))


class Said:
    def __init__(self):
        self.notes = []

    def __call__(self, text):
        pass

    def note(self, text):
        self.notes.append(text)


class Work:
    """A step that writes a file, and remembers how often it was called."""

    def __init__(self, folder, fail=False, kind=TRAINING, **values):
        self.output, self.calls, self.fail, self.kind = folder / "out", 0, fail, kind
        self.values, self.said = values, Said()

    def __call__(self):
        self.calls += 1
        self.output.mkdir(exist_ok=True)
        (self.output / f"call{self.calls}").touch()
        if self.fail:
            raise KeyboardInterrupt
        return {"calls": self.calls, **self.values}


def run(folder, work, **settings):
    return Steps(folder, ALONE, work.said).run("step", settings, work, work.output, work.kind)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_step_is_skipped_and_gives_its_values(tmp_path):
    work = Work(tmp_path)
    first = run(tmp_path, work, scales=(0.5, 1.0))
    second = run(tmp_path, work, scales=(0.5, 1.0))
    assert work.calls == 1 and second.skipped and not first.skipped
    assert (second.values, second.seconds, second.stamp) == (first.values, first.seconds, first.stamp)


def test_a_training_of_before_there_were_steps_is_not_done_again(tmp_path):
    """Neither a network's, with its own epochs, nor a classifier's, with those of its stages."""
    work, stage = Work(tmp_path), {"position": "group3", "epochs": 2.0, "steps": 0}
    settings = {"epochs": 6.0, "steps": 0, "stages": (stage,), "loss": "soft_margin"}
    run(tmp_path, work, **settings)
    path = tmp_path / "steps" / "step.json"
    path.write_text(json.dumps(without_steps(json.loads(path.read_text()))))
    assert "steps" not in path.read_text()
    assert run(tmp_path, work, **settings).skipped
    for change in ({"steps": 9, "epochs": 0.0}, {"stages": (stage | {"epochs": 0.0, "steps": 9},)}):
        assert not run(tmp_path, work, **settings | change).skipped


@pytest.mark.parametrize("kind", [JOB, TRAINING])
def test_other_settings_delete_the_outputs_that_cost_nothing_and_do_it_again(tmp_path, kind):
    work = Work(tmp_path, kind=kind)
    first = run(tmp_path, work, k=2)
    second = run(tmp_path, work, k=3)
    assert names(work.output) == ["call2"] and names(tmp_path) == ["out", "steps"]
    assert second.stamp != first.stamp


@pytest.mark.parametrize("kept", ["net.safetensors", "checkpoints/stage1-0000100"])
def test_what_was_trained_is_kept_under_another_name_and_taken_back_with_its_settings(tmp_path, kept):
    work = Work(tmp_path)
    first = run(tmp_path, work, k=2)
    (work.output / kept).parent.mkdir(exist_ok=True)
    (work.output / kept).touch()
    run(tmp_path, work, k=3)
    assert (tmp_path / "out.old" / kept).exists() and names(work.output) == ["call2"]
    assert str(tmp_path / "out.old") in work.said.notes[0]
    (work.output / "net.safetensors").touch()
    run(tmp_path, work, k=4)
    assert (tmp_path / "out.old" / kept).exists() and (tmp_path / "out.old2" / "call2").exists()
    (work.output / "net.safetensors").touch()
    back = run(tmp_path, work, k=2)
    assert back.skipped and (back.stamp, back.values) == (first.stamp, first.values) and work.calls == 3
    assert (work.output / kept).exists() and (tmp_path / "out.old3" / "call3").exists()
    assert run(tmp_path, work, k=3).skipped  # and so the others


def test_training_that_was_cut_off_is_kept_and_taken_back_too(tmp_path):
    work = Work(tmp_path, fail=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, work, k=2)
    (work.output / "checkpoints" / "stage1-0000100").mkdir(parents=True)
    work.fail = False
    run(tmp_path, work, k=3)
    assert not run(tmp_path, work, k=2).skipped
    assert names(work.output) == ["call1", "call3", "checkpoints"]  # it went on from there


def test_a_job_of_which_single_images_changed_is_called_again_with_its_outputs_kept(tmp_path):
    work = Work(tmp_path, kind=JOB, missing=0, images_per_second=5.0, written=4)
    first = run(tmp_path, work, k=2, data="a", content="a", updated={"train": "1"})
    for change in ({"data": "b"}, {"content": "b"}, {"updated": {"train": "2"}}):
        settings = {"data": "a", "content": "a", "updated": {"train": "1"}} | change
        work.values = {"missing": 0, "images_per_second": 1.0, "written": 1}
        again = run(tmp_path, work, k=2, **settings)
        assert not again.skipped and again.stamp == first.stamp and again.updated > first.updated
        assert "call1" in names(work.output)
        work.values = {"missing": 0, "images_per_second": None, "written": 0}
        quiet = run(tmp_path, work, k=2, data="a", content="a", updated={"train": "1"})
        assert (quiet.updated, quiet.values) == (again.updated, again.values)  # nothing to do: nobody need go on
    assert not run(tmp_path, work, k=3, data="a", content="a", updated={}).skipped and len(names(work.output)) == 1


def test_a_job_cut_off_while_it_did_single_images_again_keeps_the_rest(tmp_path):
    work = Work(tmp_path, kind=JOB, missing=0, written=4)
    first = run(tmp_path, work, k=2, content="a")
    work.fail = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, work, k=2, content="b")
    work.fail, work.values = False, {"missing": 0, "written": 0}
    last = run(tmp_path, work, k=2, content="b")
    assert last.stamp == first.stamp and last.updated != first.updated and len(names(work.output)) == 3


@pytest.mark.parametrize("key", ["data", "content", "updated"])
def test_a_training_is_done_again_where_its_images_have_changed(tmp_path, key):
    work = Work(tmp_path)
    run(tmp_path, work, **{key: "a"})
    assert not run(tmp_path, work, **{key: "b"}).skipped and names(work.output) == ["call2"]


def test_a_record_that_does_not_know_of_images_is_trusted_once(tmp_path):
    work = Work(tmp_path)
    run(tmp_path, work, k=2)
    assert run(tmp_path, work, k=2, content="a").skipped
    assert not run(tmp_path, work, k=2, content="b").skipped


def test_a_step_whose_output_was_deleted_is_done_again(tmp_path):
    work = Work(tmp_path)
    run(tmp_path, work, k=2)
    (work.output / "call1").unlink()
    work.output.rmdir()
    assert not run(tmp_path, work, k=2).skipped


def test_an_interrupted_step_is_called_again_with_its_outputs_kept(tmp_path):
    work = Work(tmp_path, fail=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, work, k=2)
    work.fail = False
    assert not run(tmp_path, work, k=2).skipped
    assert names(work.output) == ["call1", "call2"]


def test_outputs_of_somebody_else_are_refused_and_kept(tmp_path):
    work = Work(tmp_path)
    work.output.mkdir()
    (work.output / "precious").touch()
    with pytest.raises(UserError, match="was not made by `pplfast run`"):
        run(tmp_path, work, k=2)
    assert work.calls == 0 and (work.output / "precious").exists()


def test_the_seconds_of_earlier_passes_count_where_the_step_knows_them(tmp_path):
    result = Steps(tmp_path, ALONE, Said()).run("train", {}, lambda: {"loss": 1.0, "seconds": 500.0})
    assert result.seconds == 500 and result.values == {"loss": 1.0}
    assert json.loads((tmp_path / "steps" / "train.json").read_text())["seconds"] == 500


def parts(**changes):
    return Parts(
        **{**dict.fromkeys(("crf", "affinity", "segmentation", "masks", "test_masks", "one_list"), False)} | changes
    )


@pytest.mark.parametrize("number", range(64))
def test_every_run_has_the_steps_that_its_steps_read(number):
    flags = ("crf", "affinity", "segmentation", "masks", "test_masks", "one_list")
    has = Parts(**{flag: bool(number >> place & 1) for place, flag in enumerate(flags)})
    before: list[str] = []
    for step in steps_of(has):
        assert set(step.sources(before).values()) <= set(before)  # the ones before it, or StopIteration
        before.append(step.name)
    finals = {
        "predictions": has.segmentation,
        "labels_network": has.segmentation,
        "labels_walk": has.affinity,
        "labels_crf": has.crf,
        "labels": not has.crf,
    }
    for final, there in finals.items():
        judged = [step.name for step in (SCORES[final], FACTS[final]) if step.name in before]
        assert len(judged) == there or final == "labels"  # scored, or else counted


def test_a_network_is_trained_on_the_list_to_train_on():
    two = {step.name: step.sources([step.name for step in STEPS]) for step in STEPS}
    assert two["labels_train"]["cams"] == "walk_train" and two["affinity_labels"]["cams"] == "cams_train"
    one = [step.name for step in steps_of(parts(affinity=True, segmentation=True, one_list=True))]
    assert STEPS[[step.name for step in STEPS].index("labels_train")].sources(one) == {"cams": "walk"}
    assert "cams_train" not in one and "walk_train" not in one
    bare = [step.name for step in steps_of(parts(segmentation=True))]
    assert "cams_train" in bare and "walk_train" not in bare


def test_all_that_is_shown_has_its_words_and_its_figure():
    assert (
        [step.name for step in SHOWN]
        == ["cams", *LABELS]
        == ["cams", "labels", "labels_crf", "labels_walk", "predictions", "labels_network"]
    )
    assert all(step.short and SCORES[step.name].figure for step in SHOWN)
    assert len({step.name for step in STEPS}) == len(STEPS) and all(step.title for step in STEPS)
