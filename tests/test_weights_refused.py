"""Files given as weights that are none, or that hold more than tensors: each is told what it is."""

import argparse
import datetime
import gzip
import struct
from pathlib import Path

import models_reference as reference
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pplfast.errors import UserError
from pplfast.models import load_weights
from pplfast.models.weight_files import read_tables


def refusal(backbone, path):
    with pytest.raises(UserError) as raised:
        load_weights(backbone, path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message
    return message


class Values:
    """Stands for what training scripts keep beside their weights."""


@pytest.mark.parametrize("old", (False, True))
@pytest.mark.parametrize(
    "value, name",
    (
        (argparse.Namespace(lr=1.0), "argparse.Namespace"),
        (datetime.datetime(2020, 1, 1), "datetime.datetime"),
        (Path("x"), "pathlib"),
        (np.float64(0.5), "numpy"),
        (Values(), "test_weights_refused.Values"),
    ),
)
def test_objects_of_classes_are_named_and_not_made(value, name, old, tmp_path, monkeypatch):
    backbone, path = reference.tiny_resnet(monkeypatch), tmp_path / "w.pth"
    content = {"model": dict(backbone.state_dict()), "args": value}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    message = refusal(backbone, path)
    assert f"holds {name}" in message and "save the state_dict() of its network alone" in message
    assert "PyTorch 2.6" not in message and "\x1b" not in message and "weights_only" not in message


@pytest.mark.parametrize("name", ("w.pth", "w.safetensors", "w.params"))
@pytest.mark.parametrize(
    "data, what",
    (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "a web page"),
        (b"\xef\xbb\xbf\r\n <html>", "a web page"),
        (b'{"message": "Not Found"}', 'a text that begins with \'{"message": "Not Found"}\''),
        ("Zugriff verweigert: läuft ab\n".encode(), "a text that begins with 'Zugriff verweigert: läuft ab'"),
        (b"", "an empty file"),
        (gzip.compress(b"x" * 99, mtime=0), "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    ),
)
def test_a_file_of_another_kind_is_named(data, what, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(data)
    message = refusal(reference.tiny_resnet(monkeypatch), tmp_path / name)
    assert f"not a readable weight file ({what}" in message and "PyTorch 2.6" not in message


def test_archives_and_half_files_are_named(tmp_path, monkeypatch):
    backbone, path = reference.tiny_resnet(monkeypatch), tmp_path / "w.pth"
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    path.write_bytes((tmp_path / "w.npz").read_bytes())
    assert "a zip archive that is no checkpoint); unpack it" in refusal(backbone, path)
    torch.save(dict(backbone.state_dict()), path)
    path.write_bytes(path.read_bytes()[:5000])
    assert "cut off or damaged: the end of its archive is missing); fetch it again" in refusal(backbone, path)
    save_file(dict(backbone.state_dict()), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in (7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w.safetensors").write_bytes(whole[:length])
        assert "cut off: it is shorter than its header says" in refusal(backbone, tmp_path / "w.safetensors")


def test_safetensors_are_known_by_their_content(tmp_path, monkeypatch):
    """A header's length may be the bytes of any text: 60 is a "<"."""
    for length in (60, 32, 100):
        header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
        (tmp_path / "w.pth").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        assert read_tables(tmp_path / "w.pth")[""]["a"].shape == (1,)
