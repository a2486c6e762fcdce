"""Property tests draw at random for people, and the same examples every time in CI.

With ``-n auto --dist loadfile`` every core works through whole files. A test has one thread then, as have the
commands that it starts.
"""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("COLUMNS", None)  # xdist's, as if there were a terminal

import minirec  # isort: skip  # noqa: F401  before torch, whose waiting threads then do not spin

import torch
from hypothesis import settings

if not torch.cuda.is_available():  # before Triton reads it: its kernels run on the CPU then
    os.environ["TRITON_INTERPRET"] = "1"

from tests import backends

settings.register_profile("people", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")


@pytest.fixture(params=backends.NAMES, scope="module")
def device(request):
    """The tests of the operations run once per backend; the value is the device."""
    with pytest.MonkeyPatch.context() as patch:
        yield backends.use(request.param, patch)
        if request.param in ("avx512", "avx2", "baseline"):
            torch.ops.minirec.use_instruction_set("")
