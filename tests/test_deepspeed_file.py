"""A DeepSpeed configuration file from elsewhere: what it may not say is one line."""

from types import SimpleNamespace

import pytest
from train_data import make_recipe

from pplfast.errors import UserError
from pplfast.train import engine
from pplfast.train.deepspeed_file import apply_deepspeed_file


@pytest.mark.parametrize("text", (
    "[]", "3", '{"zero_optimization": []}', '{"zero_optimization": "a"}', '{"zero_optimization": 1}',
    '{"zero_optimization": {"stage": "1"}}', '{"zero_optimization": {"stage": [1]}}',
    '{"zero_optimization": {"stage": true}}', '{"zero_optimization": {"stage": 1e300}}', '{"torch_autocast": [1]}',
    '{"torch_autocast": "on"}', '{"torch_autocast": {"enabled": "no"}}',
    '{"torch_autocast": {"enabled": true, "dtype": ["a"]}}', '{"torch_autocast": {"enabled": true, "dtype": {}}}',
    '{"communication_data_type": []}', '{"communication_data_type": {"a": 1}}', '{"communication_data_type": null}',
))  # fmt: skip
def test_values_that_are_none_are_one_line(text, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"ds\.json: ") as error:
        apply_deepspeed_file(make_recipe(), str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", (b'{"zero_optimization": {},}', b"", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{1}", b"3"))
def test_a_file_of_the_users_own_is_not_to_be_deleted(data, tmp_path):
    (tmp_path / "ds.json").write_bytes(data)
    with pytest.raises(UserError, match=r"ds\.json: .*; give a DeepSpeed configuration") as error:
        apply_deepspeed_file(make_recipe(), str(tmp_path / "ds.json"))
    assert "delete" not in str(error.value)


def test_what_deepspeed_refuses_is_one_line(monkeypatch):
    def initialize(**arguments):
        raise ValueError("1 validation error\nreduce_bucket_size: not a number")

    monkeypatch.setattr(engine, "_import_deepspeed", lambda: SimpleNamespace(initialize=initialize))
    monkeypatch.setattr(engine, "_config", lambda *arguments: {"zero_optimization": {}})
    monkeypatch.setattr(engine, "_optimizer", lambda *arguments: None)
    ranks = SimpleNamespace(device=None)
    refused = r"^--deepspeed: DeepSpeed refuses the file's settings \(ValueError: 1 validation error reduce"
    with pytest.raises(UserError, match=refused):
        engine.start_engine(None, None, ranks, {"zero_optimization": {"reduce_bucket_size": "a"}})
    with pytest.raises(ValueError, match="validation"):
        engine.start_engine(None, None, ranks)
