"""The operations as torch sees them: schemas, compiled graphs, threads, and a process without kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minirec.ops import group_normalize, load, swap_advantages, swap_ndcg

GAINS = torch.rand(6, 8, 40, generator=torch.Generator().manual_seed(0))
HOW = (1, 1e-6, True, False)


def built():
    """Skip where there is no extension, unless it is required."""
    if load.WHY_NOT["cpu"]:
        assert not os.environ.get("MINIREC_REQUIRE_EXT"), load.WHY_NOT["cpu"]
        pytest.skip(f"extension not built: {load.WHY_NOT['cpu']}")


def calls(device):
    """Every op with arguments of its own, by the names of the schemas."""
    gains, idcg = GAINS.to(device), torch.full((6, 8), 4.0, device=device)
    flat, own = gains.view(48, 40), idcg.view(48)
    lengths = torch.arange(48, device=device) % 41
    mask = flat < 0.8
    cuts = torch.tensor([0, 3, 3, 8], device=device)
    return [
        ("swap_ndcg", (flat, own, None, None, 40, True, False, torch.empty_like(flat))),
        ("swap_ndcg", (flat, own, lengths, mask, 5, False, False, torch.empty_like(flat))),
        ("swap_ndcg", (flat, None, lengths, mask, 5, True, False, torch.empty_like(flat))),
        ("group_normalize", (gains, None, None, *HOW, False, torch.empty_like(gains))),
        ("group_normalize", (gains, gains < 0.8, None, *HOW, False, torch.empty_like(gains))),
        ("group_normalize", (gains, None, cuts, *HOW, False, torch.empty_like(gains))),
        ("swap_normalize", (gains, idcg, None, None, 40, True, *HOW, False, torch.empty_like(gains))),
    ]


def test_opcheck():
    built()
    for name, arguments in calls("cpu"):
        torch.library.opcheck(getattr(torch.ops.minirec, name).default, arguments)


@pytest.mark.cuda
def test_opcheck_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for name, arguments in calls("cuda"):
        if name == "group_normalize" or arguments[1] is not None:  # a kernel of CUDA does not sort
            torch.library.opcheck(getattr(torch.ops.minirec, name).default, arguments)


def test_the_ops_refuse_what_they_cannot_read():
    built()
    for name, arguments in calls("cpu"):
        op = getattr(torch.ops.minirec, name)
        with pytest.raises(RuntimeError):
            op(arguments[0].to(torch.int32), *arguments[1:])
        with pytest.raises(RuntimeError):
            op(arguments[0].transpose(0, 1), *arguments[1:])
        with pytest.raises(RuntimeError):
            op(*arguments[:-1], arguments[-1][:-1])


@pytest.mark.parametrize("kernels", [True, False])
def test_compiled_as_one_graph_it_is_the_same(kernels, monkeypatch):
    if kernels:
        built()
    else:
        monkeypatch.setattr(load, "built_for", lambda device: False)

    def advantages(gains, idcg):
        rewards = swap_ndcg(gains * 2, idcg, cutoff=10)
        return group_normalize(rewards + 1, dim=1), swap_advantages(gains)

    idcg = torch.full((6, 1), 9.0)
    torch.compiler.reset()
    compiled = torch.compile(advantages, fullgraph=True, backend="aot_eager")(GAINS, idcg)
    for found, expected in zip(compiled, advantages(GAINS, idcg), strict=True):
        assert torch.equal(found, expected)


def test_compiled_for_any_size_and_with_other_options_it_stays_one_graph():
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x, **how: group_normalize(x, 1, **how), fullgraph=True, backend="aot_eager"
    )
    swaps = torch.compile(swap_ndcg, fullgraph=True, backend="aot_eager", dynamic=True)
    for size, eps, cutoff in ((5, 1e-6, 5), (6, 1e-5, 6), (7, 1e-4, 4)):
        x = GAINS[:, :size]
        assert torch.equal(compiled(x, eps=eps), group_normalize(x, 1, eps=eps))
        assert torch.equal(swaps(x, cutoff=cutoff), swap_ndcg(x, cutoff=cutoff))


class Advantages(torch.nn.Module):
    """All three ops, with shapes that are products of others."""

    def forward(self, gains, idcg):
        rewards = swap_ndcg(gains * 2, idcg, cutoff=10)
        return group_normalize(rewards + 1, dim=1), swap_advantages(gains)


def exported(strict):
    """The program of a batch of any size."""
    batch = torch.export.Dim("batch", min=2)
    shapes = {"gains": {0: batch}, "idcg": {0: batch}}
    example = (GAINS, torch.full((6, 1), 9.0))
    return torch.export.export(Advantages(), example, dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_it_serves_batches_of_any_size(strict):
    program = exported(strict).module()
    for size in (2, 5, 6):
        inputs = GAINS[:size], torch.full((size, 1), 9.0)
        for found, expected in zip(program(*inputs), Advantages()(*inputs), strict=True):
            assert torch.equal(found, expected)


def test_packaged_by_aot_inductor_it_is_the_same(tmp_path):
    built()
    quick = {"aot_inductor.compile_wrapper_opt_level": "O0"}  # g++ takes most of the time
    path = str(tmp_path / "advantages.pt2")
    torch._inductor.aoti_compile_and_package(exported(False), package_path=path, inductor_configs=quick)
    inputs = GAINS[:5], torch.full((5, 1), 9.0)
    found = torch._inductor.aoti_load_package(path)(*inputs)
    for one, expected in zip(found, Advantages()(*inputs), strict=True):
        assert torch.equal(one, expected)


def test_one_thread_and_two_agree_bit_for_bit():
    built()
    big = torch.rand(3000, 128, generator=torch.Generator().manual_seed(0))
    group = big.view(300, 10, 128)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(
            (swap_ndcg(big), group_normalize(big), group_normalize(group, 1), swap_advantages(group))
        )
    torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


SCRIPT = """
import torch
from minirec import ops
from minirec.ops import load
gains = torch.load({path!r})
found = ops.swap_ndcg(gains, cutoff=7), ops.group_normalize(gains, 1), ops.swap_advantages(gains)
assert not load.built_for(gains.device)
torch.save(found, {path!r})
"""


def test_a_process_without_the_extension_gives_the_same_answers(tmp_path):
    path = str(tmp_path / "x.pt")
    torch.save(GAINS, path)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "MINIREC_NO_EXT": "1", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", SCRIPT.format(path=path)], env=environment, check=True)
    here = swap_ndcg(GAINS, cutoff=7), group_normalize(GAINS, 1), swap_advantages(GAINS)
    for found, expected in zip(torch.load(path), here, strict=True):
        # float32; advantages are at most 8 rewards' distance, about 3, and divide by stds of about 1e-2.
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)


def test_the_command_says_what_serves_what_and_why(tmp_path):
    root = Path(__file__).parents[2]
    for variable, words in (("1", "MINIREC_NO_EXT is set"), ("", "cpu")):
        environment = {**os.environ, "MINIREC_NO_EXT": variable, "PYTHONPATH": str(root)}
        run = subprocess.run(
            [sys.executable, "-m", "minirec.ops"], env=environment, capture_output=True, text=True, check=True
        )
        assert words in run.stdout
        assert len(run.stdout.splitlines()) >= 3


@pytest.mark.cuda
def test_on_cuda_a_graph_captures_and_the_current_stream_is_used():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gains, out, second = GAINS.cuda(), torch.empty(6, 8, 40).cuda(), torch.empty(6, 8, 40).cuda()
    idcg = torch.full((6, 8), 4.0).cuda()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        swap_ndcg(gains, idcg, out=out)
        swap_advantages(gains, idcg, out=second)
        own = swap_ndcg(gains)
    gains.copy_(torch.rand(6, 8, 40))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, swap_ndcg(gains, idcg))
    assert torch.equal(second, swap_advantages(gains, idcg))
    assert torch.equal(own, swap_ndcg(gains))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)  # what follows on this stream comes later
        gains.fill_(1.0)
        late = swap_ndcg(gains, idcg)
    torch.cuda.synchronize()
    assert (late == 0).all()
