"""A stage ends only with ranks that are still one network, and frozen parameters that are as they were."""

import pytest
import torch
from torch import nn

from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks
from pplfast.train import consistency
from pplfast.train.consistency import check_ranks, checksums, frozen_checksums

CPU = torch.device("cpu")


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def test_checksums_see_one_bit_of_any_tensor():
    tensors = [
        torch.randn(5, 123),
        torch.randn(7).bfloat16(),
        torch.arange(3),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ]
    before = checksums(tensors)
    for tensor, index in zip(tensors, range(4), strict=True):
        tensor.view(consistency.INTEGERS[tensor.element_size()]).flatten()[0] ^= 1 if tensor.is_contiguous() else 0
        if not tensor.is_contiguous():
            tensor[0, 0, 0, 0] = torch.nextafter(tensor[0, 0, 0, 0], torch.tensor(9.0))
        assert checksums(tensors)[index] != before[index]


def test_frozen_parameters_that_moved_are_named():
    model, ranks = network(), Ranks(0, 1, 1, CPU)
    frozen = frozen_checksums(model)
    assert list(frozen) == ["0.weight", "0.bias"]
    with torch.no_grad():
        model[2].weight += 1
        check_ranks(model, frozen, ranks, stage=1)
        model[0].bias[2] = torch.nextafter(model[0].bias[2], torch.tensor(9.0))
    with pytest.raises(EveryRankError, match="stage 1: 0.bias should be frozen, but changed"):
        check_ranks(model, frozen, ranks, stage=1)


@pytest.mark.parametrize("rank, error", ((0, EveryRankError), (1, OtherRankError)))
@pytest.mark.parametrize("name", ("2.weight", "1.running_mean"))
def test_a_rank_that_went_another_way_is_named(monkeypatch, rank, error, name):
    """Three ranks, of which the last has another value in one parameter or buffer."""
    model = network()
    position = list(model.state_dict()).index(name)

    def all_gather(shares, own):
        for share in shares:
            share.copy_(own)
        shares[2][position] += 1

    monkeypatch.setattr(consistency.dist, "all_gather", all_gather)
    with pytest.raises(error, match=rf"stage 2: {name} differ between ranks \(rank 2 from most others\)"):
        check_ranks(model, frozen_checksums(model), Ranks(rank, 3, 3, CPU), stage=2)
