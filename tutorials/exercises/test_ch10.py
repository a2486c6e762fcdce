"""Chapter 10: pytest tutorials/exercises -k ch10. The emulator of tests/emulator runs kernels and counts."""

import ctypes
from typing import NamedTuple

import pytest
import torch

from minirec.ops import reference

SECTOR = 32  # bytes


class Asked(NamedTuple):
    """What a kernel gave, and what its warps asked for."""

    out: torch.Tensor
    sectors: list[int]  # read, written
    requests: list[int]  # read, written
    wavefronts: int  # of shared memory
    least: int  # wavefronts without a bank that two threads want


def run(library, rewards, falling=False):
    """Normalise groups (n, G), which are all that the kernel may touch besides its output."""
    out = torch.full_like(rewards, torch.nan)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rewards, out)]
    ends = [tensor.data_ptr() + beyond for tensor in (rewards, out) for beyond in (0, tensor.nbytes)]
    library.set_arrays(ctypes.c_int64(2), (ctypes.c_int64 * 4)(*ends))
    library.set_order(falling)
    library.count_requests()
    code = library.normalize_groups(
        *pointers, ctypes.c_int64(len(rewards)), ctypes.c_void_p(library.current_stream())
    )
    assert (code, library.error()) == (0, b"")
    rows = (ctypes.c_int64 * 10)()  # sectors, then requests: of rewards read, written, of out read, written
    library.counted_requests(rows)
    return Asked(out, [rows[0], rows[3]], [rows[4], rows[7]], *rows[8:])


def groups(n, size):
    return torch.rand(n, size, generator=torch.Generator().manual_seed(10))


def check_numbers(library, size):
    for n in (1, 37, 300):  # some blocks, the last of them not full
        rewards = groups(n, size)
        truth = reference.group_normalize(rewards.double()[..., None], None, None, 1, 1e-6, True, False)[
            ..., 0
        ]
        rising, falling = (run(library, rewards, order).out for order in (False, True))
        assert torch.allclose(rising.double(), truth, atol=1e-5)  # some dozen roundings of numbers of size 1
        assert torch.equal(rising, falling), "threads do not wait for what others write"
    assert (run(library, torch.full((5, size), 0.7)).out == 0).all(), "equal rewards must give exactly 0"


def check_sectors(asked, rewards):
    least = rewards.nbytes // SECTOR
    assert asked.sectors == [least, least], "sectors read and written, and the fewest that hold the numbers"


def test_bug_the_numbers_stay_right(kernel):
    check_numbers(kernel("ch10_bug"), 32)


def test_bug_a_warp_asks_for_no_sector_twice(kernel):
    rewards = groups(256, 32)
    check_sectors(run(kernel("ch10_bug"), rewards), rewards)


def test_bug_the_threads_of_a_warp_are_in_different_banks(kernel):
    *_, wavefronts, least = run(kernel("ch10_bug"), groups(256, 32))
    assert wavefronts > 0, "the groups go through shared memory"
    assert wavefronts == least, "wavefronts, and as many as there are without conflicts"


def test_build_the_numbers_stay_right(kernel):
    check_numbers(kernel("ch10_build"), 16)


@pytest.mark.parametrize("n", [32, 96, 256])
def test_build_a_request_is_of_512_bytes(kernel, n):
    rewards = groups(n, 16)
    asked = run(kernel("ch10_build"), rewards)
    expected = rewards.nbytes // 512
    assert asked.requests == [expected, expected], "requests to read and to write, each of 16 bytes a thread"
    check_sectors(asked, rewards)
