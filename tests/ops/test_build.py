"""Building: what compiles, what is said where it does not, and what the library needs of torch."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minirec.ops.load import FOLDER, WHY_NOT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def build(folder, **environment):
    """Run setup.py's build into a folder."""
    own = {name: value for name, value in os.environ.items() if name != "MINIREC_REQUIRE_EXT"}
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        folder,
        "--build-temp",
        folder / "temp",
    ]
    return subprocess.run(
        command, cwd=ROOT, env=own | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("ninja") is None, reason="extension not built: no ninja")
def test_a_compile_that_fails_is_a_warning_or_an_error_where_it_is_required(tmp_path):
    done = build(tmp_path / "a", CXX="/bin/false")
    assert done.returncode == 0, done.stderr
    assert "is not built, plain torch takes its place" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
    done = build(tmp_path / "b", CXX="/bin/false", MINIREC_REQUIRE_EXT="1")
    assert done.returncode != 0
    assert "MINIREC_REQUIRE_EXT" in done.stderr


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
sys.argv = ["setup.py", "--name"]
exec(open("setup.py").read())
"""


def test_without_torch_there_is_nothing_to_compile_unless_it_is_required():
    command = [sys.executable, "-c", WITHOUT_TORCH]
    own = {name: value for name, value in os.environ.items() if name != "MINIREC_REQUIRE_EXT"}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("minirec")
    required = own | {"MINIREC_REQUIRE_EXT": "1"}
    done = subprocess.run(command, cwd=ROOT, env=required, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no torch" in done.stderr


def test_the_library_needs_nothing_of_torch_but_its_stable_interface():
    if WHY_NOT["cpu"]:
        assert not os.environ.get("MINIREC_REQUIRE_EXT"), WHY_NOT["cpu"]
        pytest.skip(f"extension not built: {WHY_NOT['cpu']}")
    if shutil.which("nm") is None:
        pytest.skip("extension not built: no nm to look into it")
    (library,) = FOLDER.glob("_C*.so")
    command = ["nm", "-D", "--undefined-only", library]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "torch_parallel_for" in symbols
    # C++ names of torch are bound to one version of it; those of its stable interface are plain C.
    assert not [symbol for symbol in symbols if re.match(r"_Z\w*(2at|3c10|5torch)\d", symbol)]


def test_the_cuda_library_is_made_of_sources_not_of_headers():
    code = "import runpy, setuptools; setuptools.setup = lambda **_: None; m = runpy.run_path('setup.py')"
    command = [sys.executable, "-c", f"{code}; print(*m['cuda_sources']())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = ["group_normalize.cu", "ops.cpp", "swap_ndcg.cu", "swap_normalize.cu"]
    assert [Path(path).name for path in done.stdout.split()] == expected


@pytest.mark.skipif(shutil.which("clang-format") is None, reason="extension not built: no clang-format")
def test_clang_format():
    files = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    command = ["clang-format", "--dry-run", "--Werror", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
