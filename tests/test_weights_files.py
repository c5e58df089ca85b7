"""Weight files of every form into a backbone, and the message for each that does not fit."""

import struct
import tarfile
import tempfile
import warnings
import zipfile

import models_reference as reference
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pplfast.errors import UserError
from pplfast.models import create, load_weights
from pplfast.models.mxnet import published_name, read_params
from pplfast.models.resnet import ResNet
from pplfast.models.values import bad_weight
from pplfast.models.weight_files import read_tables
from pplfast.models.wideresnet import WideResNet38

MX_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
MX_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 2}


def mxnet_name(name):
    """The original's name of a published PyTorch tensor, with the prefix that MXNet's checkpoints carry."""
    prefix = "aux:" if "running" in name else "arg:"
    if name == "conv1a.weight":
        return prefix + "conv1a_weight"
    *block, layer, last = name.split(".")
    if not block:
        return f"{prefix}bn7_{MX_NORM[last]}"
    group, _, unit = block[0][1:].partition("_")
    kind, branch = layer.split("_")
    where = f"{group}{'b' + unit if unit else 'a'}_{branch}"
    return f"{prefix}res{where}_weight" if kind == "conv" else f"{prefix}bn{where}_{MX_NORM[last]}"


def write_params(path, arrays, version="v2"):
    """An MXNet list of named arrays: "oldest" (2016), "v1", "v2" or "v3"."""
    magic = {"v1": 0xF993FAC8, "v2": 0xF993FAC9, "v3": 0xF993FACA}.get(version)
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for array in arrays.values():
        if magic is not None:
            parts.append(struct.pack("<I", magic))
        if version in ("v2", "v3"):
            parts.append(struct.pack("<i", 0))
        parts.append(struct.pack(f"<I{array.ndim}{'I' if version == 'oldest' else 'q'}", array.ndim, *array.shape))
        parts += [struct.pack("<iii", 2, 0, MX_TYPES[array.dtype]), array.tobytes()]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts.append(struct.pack("<Q", len(name)) + name.encode())
    path.write_bytes(b"".join(parts))


def mxnet_arrays(backbone, dtype=np.float32):
    arrays = {mxnet_name(name): tensor.numpy().astype(dtype) for name, tensor in backbone.state_dict().items()}
    return arrays | {"arg:linear1000_weight": np.ones((5, 24), dtype), "arg:linear1000_bias": np.ones(5, dtype)}


def equal(one, other):
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def test_mxnet_names_of_the_original():
    for theirs, ours in (
        ("arg:conv1a_weight", "conv1a.weight"),
        ("arg:res2a_branch2a_weight", "b2.conv_branch2a.weight"),
        ("arg:res2a_branch1_weight", "b2.conv_branch1.weight"),
        ("arg:res4b5_branch2b1_weight", "b4_5.conv_branch2b1.weight"),
        ("arg:bn2b1_branch2a_gamma", "b2_1.bn_branch2a.weight"),
        ("arg:bn6a_branch2b2_beta", "b6.bn_branch2b2.bias"),
        ("aux:bn7a_branch2b1_moving_mean", "b7.bn_branch2b1.running_mean"),
        ("bn5b2_branch2a_moving_var", "b5_2.bn_branch2a.running_var"),
        ("arg:bn7_gamma", "bn7.weight"),
        ("arg:linear1000_weight", "linear1000_weight"),
    ):
        assert published_name(theirs) == ours


@pytest.mark.parametrize("version", ("oldest", "v1", "v2", "v3"))
def test_mxnet_params_into_wideresnet38(version, tmp_path, monkeypatch):
    source = reference.tiny_wideresnet(monkeypatch)
    write_params(tmp_path / "w.params", mxnet_arrays(source), version)
    target = WideResNet38()
    report = load_weights(target, tmp_path / "w.params")
    assert equal(source, target)
    assert set(report.loaded) == set(source.state_dict())
    assert report.ignored == ("linear1000_weight", "linear1000_bias")
    assert (report.missing, report.unexpected) == ((), ())
    assert f"{len(report.loaded)} tensors loaded; 2 ignored (linear1000_weight, linear1000_bias)" in str(report)


def test_mxnet_half_precision_is_converted(tmp_path, monkeypatch):
    source = reference.tiny_wideresnet(monkeypatch)
    write_params(tmp_path / "w.params", mxnet_arrays(source, np.float16))
    target = WideResNet38()
    load_weights(target, tmp_path / "w.params")
    assert equal(source.half(), target.half())


def save_as(path, tensors, form):
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "module":
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    elif form == "bare":
        torch.save(tensors, path)
    else:
        torch.save({form: tensors, "epoch": 3}, path)


@pytest.mark.parametrize("form", ("bare", "module", "state_dict", "model", "safetensors"))
def test_torchvision_and_timm_files_into_resnet(form, tmp_path, monkeypatch):
    source = reference.tiny_resnet(monkeypatch)
    extra = {"fc.weight": torch.ones(10, 20), "fc.bias": torch.ones(10), "bn1.num_batches_tracked": torch.tensor(7)}
    tensors = dict(source.state_dict()) | extra | {"projector.weight": torch.ones(2)}
    path = tmp_path / ("r.safetensors" if form == "safetensors" else "r.pth")
    save_as(path, tensors, form)
    target = ResNet("resnet50")
    target.eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        target.run(x, 0, 17)  # keeps folded weights, which loading has to replace
        report = load_weights(target, path)
        assert torch.equal(target.run(x, 0, 17), source.run(x, 0, 17))
    assert equal(source, target)
    assert set(report.ignored) == set(extra)
    assert report.unexpected == ("projector.weight",)


def test_files_of_published_wideresnet38_classifiers(tmp_path, monkeypatch):
    source = reference.tiny_wideresnet(monkeypatch)
    torch.save(dict(source.state_dict()) | {"fc8.weight": torch.ones(20, 24, 1, 1)}, tmp_path / "psa.pth")
    target = WideResNet38()
    assert load_weights(target, tmp_path / "psa.pth").ignored == ("fc8.weight",)
    assert equal(source, target)


PREFIXES = (
    "module.", "_orig_mod.", "module._orig_mod.", "module.module.", "backbone.", "encoder.", "model.",
    "module.encoder_q.", "0.", "my.own.wrapper.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ("bare", "safetensors"))
def test_a_prefix_before_the_names_is_taken_off(prefix, form, tmp_path, monkeypatch):
    source, target = reference.tiny_resnet(monkeypatch), ResNet("resnet50")
    path = tmp_path / ("r.safetensors" if form == "safetensors" else "r.pth")
    tensors = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    tensors |= {f"{prefix}fc.bias": torch.ones(10), "decode_head.layer1.weight": torch.ones(2)}
    save_as(path, tensors, form)
    report = load_weights(target, path)
    assert equal(source, target)
    assert report.ignored == ("fc.bias",) and report.unexpected == ("decode_head.layer1.weight",)


WRAPPERS = (
    "state_dict", "model", "model_state_dict", "net", "params", "state_dict_ema", "model_ema", "ema", "teacher",
    "a name of one's own",
)  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_dictionary_that_holds_the_network_is_found(wrapper, tmp_path, monkeypatch):
    source, target = reference.tiny_resnet(monkeypatch), ResNet("resnet50")
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}}
    content = {wrapper: dict(source.state_dict()), "optimizer": optimizer, "epoch": 3, "best": torch.tensor(0.5)}
    torch.save(content, tmp_path / "r.pth")
    report = load_weights(target, tmp_path / "r.pth")
    assert equal(source, target) and not report.unexpected
    torch.save({"outer": content}, tmp_path / "r.pth")
    load_weights(target, tmp_path / "r.pth")


def test_of_two_networks_the_one_with_a_neutral_name_is_taken(tmp_path, monkeypatch):
    source, other = reference.tiny_resnet(monkeypatch), reference.tiny_resnet(monkeypatch)
    path, target = tmp_path / "r.pth", ResNet("resnet50")
    of_source, of_other = dict(source.state_dict()), dict(other.state_dict())
    for average in ("state_dict_ema", "model_ema", "ema"):
        torch.save({average: of_other, "state_dict": {f"module.{name}": x for name, x in of_source.items()}}, path)
        load_weights(target, path)
        assert equal(source, target)
    torch.save({f"{part}.{name}": x for part in ("encoder_q", "encoder_k") for name, x in of_source.items()}, path)
    assert "holds 2 networks (encoder_q, encoder_k); save one of them in a file of its own" in refusal(target, path)
    torch.save({"student": {f"module.backbone.{name}": x for name, x in of_source.items()}, "teacher": of_other}, path)
    assert "holds 2 networks (student.module.backbone, teacher); save one" in refusal(target, path)


def test_dictionaries_that_hold_themselves_end(tmp_path, monkeypatch):
    source, target = reference.tiny_resnet(monkeypatch), ResNet("resnet50")
    content = {"model": dict(source.state_dict())}
    content["again"] = content
    level = {"x": torch.ones(1)}
    for _ in range(30):
        level = {str(i): level for i in range(10)}
    content["many"] = level
    torch.save(content, tmp_path / "r.pth")
    load_weights(target, tmp_path / "r.pth")
    assert equal(source, target)


def refusal(backbone, path):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(UserError) as raised:
        load_weights(backbone, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_mismatch_names_file_and_tensors(tmp_path, monkeypatch):
    source = reference.tiny_resnet(monkeypatch)
    path, good = tmp_path / "r.pth", dict(source.state_dict())

    torch.save({name: tensor for name, tensor in good.items() if not name.startswith("layer4.2.")}, path)
    message = refusal(source, path)
    assert "not weights of resnet50: 15 tensors of the backbone are missing (layer4.2.conv1.weight, " in message
    assert "layer4.2.bn1.bias, layer4.2.bn1.running_mean, ...)" in message

    torch.save(good | {"layer1.0.conv1.weight": torch.ones(4, 6, 3, 3)}, path)
    message = refusal(source, path)
    assert "1 tensors have another shape (layer1.0.conv1.weight is [4, 6, 3, 3], not [4, 6, 1, 1])" in message

    torch.save(dict(reference.tiny_resnet(monkeypatch, "resnet101").state_dict()), path)
    assert "255 tensors have no place in the backbone (layer3.6.conv1.weight, " in refusal(source, path)

    torch.save({"net.conv1a.weight": torch.ones(1)}, path)
    message = refusal(source, path)
    assert "tensors of the backbone are missing (conv1.weight, " in message
    assert "...; the file has net.conv1a.weight)" in message


def test_files_that_are_no_weight_files(tmp_path, monkeypatch):
    backbone = reference.tiny_resnet(monkeypatch)

    def written(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    torch.save(dict(backbone.state_dict()), tmp_path / "whole.pth")
    save_file(dict(backbone.state_dict()), tmp_path / "whole.safetensors")
    cut = (tmp_path / "whole.pth").stat().st_size // 2
    for path in (
        written("text.pth", b"404: not found\n"),
        written("empty.pth", b""),
        written("cut.pth", (tmp_path / "whole.pth").read_bytes()[:cut]),
        written("picture.params", b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ):
        assert "not a readable weight file (" in refusal(backbone, path)
    assert "no such weight file" in refusal(backbone, tmp_path / "absent.pth")
    assert "no such weight file" in refusal(backbone, tmp_path)
    data = (tmp_path / "whole.safetensors").read_bytes()
    for path in (
        written("cut.safetensors", data[:cut]),
        written("text.safetensors", b"hello"),
        written("empty.safetensors", b""),
    ):
        assert "not a readable weight file (" in refusal(backbone, path)
    torch.save([1, 2, 3], tmp_path / "list.pth")
    assert "holds no tensors by name" in refusal(backbone, tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    assert "holds no tensors by name" in refusal(backbone, tmp_path / "numbers.pth")


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    backbone = reference.tiny_resnet(monkeypatch)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "holds torch.nn.modules.linear.Linear, which is not loaded" in refusal(backbone, tmp_path / "module.pth")


def test_damaged_mxnet_files(tmp_path, monkeypatch):
    backbone = reference.tiny_wideresnet(monkeypatch)
    path = tmp_path / "w.params"
    write_params(path, mxnet_arrays(backbone))
    whole = path.read_bytes()
    for length in (9, 30, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        assert "not a readable MXNet .params file (" in refusal(backbone, path)
    for offset, layout, value, reason in (
        (28, "<i", 1, "sparse arrays"),
        (32, "<i", 99, "an array of 99 dimensions"),
        (36, "<q", -4, "an array of shape [-4, "),
        (76, "<i", 77, "unknown element type 77"),
    ):
        path.write_bytes(whole[:offset] + struct.pack(layout, value) + whole[offset + struct.calcsize(layout) :])
        assert reason in refusal(backbone, path)


def test_params_of_another_network_are_refused_by_name(tmp_path, monkeypatch):
    write_params(tmp_path / "vgg.params", {"arg:conv1_1_weight": np.ones((4, 3, 3, 3), np.float32)})
    assert list(read_params(tmp_path / "vgg.params")) == ["arg:conv1_1_weight"]
    message = refusal(reference.tiny_wideresnet(monkeypatch), tmp_path / "vgg.params")
    assert "not weights of wrn38: 191 tensors of the backbone are missing (conv1a.weight, " in message


def test_create_with_weights(tmp_path, monkeypatch):
    source = reference.tiny_resnet(monkeypatch)
    torch.save(dict(source.state_dict()), tmp_path / "r.pth")
    backbone, report = create("resnet50", str(tmp_path / "r.pth"), 32)
    assert equal(source, backbone)
    assert report.path == str(tmp_path / "r.pth")
    reference.tiny_wideresnet(monkeypatch)
    for name, needed in (("resnet50", "torchvision's or timm's resnet50"), ("wrn38", "ilsvrc-cls_rna-a1_cls1000_ep-")):
        with pytest.raises(UserError, match=rf"weights = 'auto': .*{needed}.*weights = 'none' to train from scratch"):
            create(name, "auto")
        torch.manual_seed(3)
        first, report = create(name, "none")
        torch.manual_seed(3)
        assert equal(first, create(name)[0])
        assert report is None


def test_nothing_is_printed_while_loading(tmp_path, monkeypatch, capfd):
    source = reference.tiny_wideresnet(monkeypatch)
    write_params(tmp_path / "w.params", mxnet_arrays(source))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(source, tmp_path / "w.params")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ("bare", "safetensors", "params"))
@pytest.mark.parametrize(
    "value, text", ((float("nan"), "NaN"), (float("-inf"), "infinity"), (-6e30, "values as large as 6e+30"))
)
def test_values_that_are_none_are_refused_by_the_name_of_their_tensor(form, value, text, tmp_path, monkeypatch):
    backbone = (reference.tiny_wideresnet if form == "params" else reference.tiny_resnet)(monkeypatch)
    path = tmp_path / {"bare": "w.pth", "safetensors": "w.safetensors", "params": "w.params"}[form]
    tensors = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    name = [name for name, tensor in tensors.items() if tensor.dim() == 4][1]
    tensors[name].view(-1)[-1] = value
    if form == "params":
        write_params(path, {mxnet_name(name): tensor.numpy() for name, tensor in tensors.items()})
    else:
        save_as(path, tensors, form)
    assert f"{name} holds {text}, which are no weights" in refusal(backbone, path)


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_another_kind_are_refused(tmp_path, monkeypatch):
    backbone = reference.tiny_resnet(monkeypatch)
    good, name = dict(backbone.state_dict()), "layer1.0.conv1.weight"
    for tensor, kind in (
        (good[name].to(torch.int8), "of torch.int8"),
        (good[name].to(torch.complex64), "of torch.complex64"),
        (good[name].to_sparse(), "in the layout torch.sparse_coo"),
        (torch.quantize_per_tensor(good[name], 1.0, 0, torch.qint8), "of torch.qint8"),
        (torch.empty_like(good[name], device="meta"), "without values"),
    ):
        torch.save(good | {name: tensor}, tmp_path / "w.pth")
        message = refusal(backbone, tmp_path / "w.pth")
        assert f"{name} is {kind}, not of plain torch.float32" in message or "not a readable weight file" in message
    tiny = tmp_path / "w.pth"
    torch.save({"x": torch.ones(1).expand(2**40)}, tiny)  # a view: 4 bytes that say they are 4 TiB
    assert "tensors of the backbone are missing" in refusal(backbone, tiny)


def test_an_archive_larger_than_its_file_is_not_unpacked(tmp_path, monkeypatch):
    backbone = reference.tiny_resnet(monkeypatch)
    torch.save({"x": torch.zeros(1000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as whole, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in whole.infolist():
            data = whole.read(entry) if "data/0" not in entry.filename else bytes(10**7)
            bomb.writestr(entry.filename, data, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 10**5
    assert "a compressed archive, not a file of torch.save" in refusal(backbone, tmp_path / "bomb.pth")


def test_bad_weights_of_whole_numbers_and_of_eight_bits():
    assert bad_weight({}) == bad_weight({"n": torch.tensor(7), "none": torch.zeros(0)}) == ""
    assert bad_weight({"a": torch.ones(2, dtype=torch.float8_e4m3fn), "b": torch.ones(2).bfloat16()}) == ""
    assert (
        bad_weight({"a.running_var": torch.tensor([1e9]), "b": torch.tensor([1e9])})
        == "b holds values as large as 1e+09"
    )


def test_old_checkpoints_are_read_and_their_storages_are_no_larger_than_the_file(tmp_path):
    tensors = {"a.weight": torch.randn(40, 3, 3, 3), "b": torch.ones(7), "c": torch.ones(7, dtype=torch.int64)}
    rest = {"epoch": 5, "seed": 12345678901, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}
    path = tmp_path / "old.pth"
    torch.save({"state_dict": tensors, **rest}, path, _use_new_zipfile_serialization=False)
    found = read_tables(path)["state_dict"]
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    data, size = path.read_bytes(), b"M" + (40 * 3 * 3 * 3).to_bytes(2, "little")  # BININT2
    path.write_bytes(data.replace(size, b"J" + (2**31 - 1).to_bytes(4, "little"), 1))  # BININT
    with pytest.raises(UserError, match="smaller than the tensors that it claims to hold"):
        read_tables(path)


def test_a_tar_archive_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *a, **k: pytest.fail("something is unpacked"))
    (tmp_path / "storages").write_bytes(b"x")
    with tarfile.open(tmp_path / "w.pth", "w") as archive:
        archive.add(tmp_path / "storages", "storages")
    with pytest.raises(UserError, match="w.pth: a tar archive"):
        read_tables(tmp_path / "w.pth")
