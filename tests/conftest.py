"""Property tests draw at random for people, and the same examples every time in CI."""

import os

import pytest
import torch
from hypothesis import settings

from tests import backends

settings.register_profile("people", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")


@pytest.fixture(params=backends.NAMES, scope="module")
def device(request):
    """The tests of the operations run once per backend; the value is the device."""
    with pytest.MonkeyPatch.context() as patch:
        yield backends.use(request.param, patch)
        if request.param in ("avx512", "avx2", "baseline"):
            torch.ops.minirec.use_instruction_set("")
