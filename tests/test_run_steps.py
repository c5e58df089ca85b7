"""Steps are done once, continue where they were cut off, and are redone when what they depend on has changed."""

import pytest

from pplfast.errors import UserError
from pplfast.run.steps import Steps


class Work:
    """A step that writes a file, and remembers how often it was called."""

    def __init__(self, folder, fail=False):
        self.output, self.calls, self.fail = folder / "out", 0, fail

    def __call__(self):
        self.calls += 1
        self.output.mkdir(exist_ok=True)
        (self.output / f"call{self.calls}").touch()
        if self.fail:
            raise KeyboardInterrupt
        return {"calls": self.calls}


def run(folder, work, **settings):
    return Steps(folder, lambda text: None).run("step", settings, [work.output], work)


def test_a_finished_step_is_skipped_and_gives_its_values(tmp_path):
    work = Work(tmp_path)
    first = run(tmp_path, work, scales=(0.5, 1.0))
    second = run(tmp_path, work, scales=(0.5, 1.0))
    assert work.calls == 1 and second.skipped and not first.skipped
    assert (second.values, second.seconds, second.stamp) == (first.values, first.seconds, first.stamp)


def test_other_settings_delete_the_outputs_and_do_it_again(tmp_path):
    work = Work(tmp_path)
    first = run(tmp_path, work, k=2)
    second = run(tmp_path, work, k=3)
    assert [path.name for path in work.output.iterdir()] == ["call2"]
    assert second.stamp != first.stamp


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
    assert sorted(path.name for path in work.output.iterdir()) == ["call1", "call2"]


def test_outputs_of_somebody_else_are_refused_and_kept(tmp_path):
    work = Work(tmp_path)
    work.output.mkdir()
    (work.output / "precious").touch()
    with pytest.raises(UserError, match="was not made by `pplfast run`"):
        run(tmp_path, work, k=2)
    assert work.calls == 0 and (work.output / "precious").exists()


def test_the_seconds_of_earlier_passes_count_where_the_step_knows_them(tmp_path):
    result = Steps(tmp_path, lambda text: None).run("train", {}, [], lambda: {"loss": 1.0, "seconds": 500.0})
    assert result.seconds == 500 and result.values == {"loss": 1.0}
