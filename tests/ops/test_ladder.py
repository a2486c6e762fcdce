"""Every rung of the ladders gives the same numbers, but for the textbook's group normalisation."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from bench.ladder import FLAGS, NORMALIZE, SWAP, mapped, said
from minirec.ops import reference

LADDER = Path(__file__).parents[2] / "csrc" / "ladder"
MAP = re.compile(r"^// {1,3}\d+  .* ([\d,.]+|-)$", re.MULTILINE)  # of a rung, its multiple
N, K = 48, 37  # lists in whole sixteens, as some rungs want; a length that fills no block


@pytest.fixture(scope="module", params=["swap_ndcg", "group_normalize"])
def ladder(request, tmp_path_factory):
    """The name of a ladder and its library, compiled without optimisation, which is quick."""
    if shutil.which("g++") is None:
        pytest.skip("extension not built: no g++")
    library = tmp_path_factory.mktemp("ladder") / f"{request.param}.so"
    flags = ["-O0" if flag == "-O3" else flag for flag in FLAGS]
    subprocess.run(["g++", *flags, LADDER / f"{request.param}.cpp", "-o", library], check=True)
    return request.param, ctypes.CDLL(str(library))


def call(rung, *tensors):
    """Run a rung on (n, size) tensors, the output last."""
    sizes = (ctypes.c_int64(size) for size in tensors[0].shape)
    rung(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), *sizes)
    return tensors[-1]


def test_all_rungs_agree_with_the_truth(ladder):
    name, library = ladder
    values = torch.rand(N, K, generator=torch.Generator().manual_seed(0))
    if name == "swap_ndcg":
        idcg = torch.rand(N, generator=torch.Generator().manual_seed(1)) + 1
        valid = torch.ones(N, K, dtype=torch.bool)
        truth = reference.swap_pairs(values.double(), idcg.double(), valid, K, True)
        found = {
            rung: call(getattr(library, rung), values, idcg, torch.full((N, K), torch.nan)) for rung in SWAP
        }
    else:
        how = 1, 1e-6, True, False
        truth = reference.group_normalize(values.double()[..., None], None, None, *how)[..., 0]
        found = {
            rung: call(getattr(library, rung), values, torch.full((N, K), torch.nan)) for rung in NORMALIZE
        }
    for rung, result in found.items():
        # Sums of 37 float32 numbers of size 1, over a std of .3: 37 x 6e-8 x 3, and some room.
        assert (result.double() - truth).abs().max() < 2e-5, rung


def test_the_map_on_top_of_a_ladder_has_the_measured_numbers():
    measured = (LADDER.parents[1] / "bench" / "results" / "ladder.md").read_text()
    for name, rungs in (("swap_ndcg", SWAP), ("group_normalize", NORMALIZE)):
        page = (LADDER / f"{name}.cpp").read_text()
        claimed = MAP.findall(page)
        assert len(claimed) == len(rungs)
        for rung, number in zip(rungs, claimed, strict=True):
            ratio = re.search(rf"\| {rung} \|.*\| ([\d,.]+) \|", measured)
            assert number == (said(float(ratio[1].replace(",", ""))) if ratio else "-"), rung


def test_a_measurement_is_written_into_the_map():
    page = (LADDER / "swap_ndcg.cpp").read_text()
    ratios = [12345.6, 12.3, 9.87, *(1.25 + rung for rung in range(len(SWAP) - 3))]
    again = mapped(page, ratios)
    assert MAP.findall(again)[:3] == ["12,346", "12", "9.9"]
    assert mapped(again, [1.0] * len(SWAP)) == mapped(page, [1.0] * len(SWAP))
    with pytest.raises(LookupError, match="no rung"):
        mapped(page, [*ratios, 1.0])


def test_what_the_textbook_gets_wrong(ladder):
    name, library = ladder
    if name == "swap_ndcg":
        constant = torch.full((N, K), 0.7)
        for rung in [rung for rung in SWAP if rung not in ("swap_literal", "swap_pairs")]:
            assert (call(getattr(library, rung), constant, torch.ones(N), torch.empty(N, K)) == 0).all(), rung
        return
    silent = torch.full((16, 8), 0.7)
    assert (call(library.normalize_textbook, silent, torch.empty(16, 8)) != 0).any()
    for rung in NORMALIZE[1:]:
        assert (call(getattr(library, rung), silent, torch.empty(16, 8)) == 0).all(), rung
