"""Exercises are read from this folder; from ../solutions with EXERCISES=solutions."""

import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tutorials" / os.environ.get("EXERCISES", "exercises")


@pytest.fixture
def exercise(request):
    """The module of an exercise, by its name: exercise("ch05_build")."""

    def load(name):
        request.node.user_properties.append(("exercise", name))  # for tests/test_tutorials.py
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@functools.cache
def emulated(name):
    """A kernel under the emulator of CUDA, which needs no GPU: a library with what tests ask of it."""
    flags = ["-O1", "-std=c++17", "-fPIC", "-shared", "-include", ROOT / "tests" / "emulator" / "control.h"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{name}.so"
        source = ["-x", "c++", FOLDER / f"{name}.cu"]
        done = subprocess.run(
            ["g++", *flags, *source, "-o", library], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(done.stderr, pytrace=False)
        loaded = ctypes.CDLL(str(library))
    loaded.error.restype, loaded.current_stream.restype = ctypes.c_char_p, ctypes.c_void_p
    return loaded


@pytest.fixture
def kernel(request):
    """The library of an exercise that is a kernel, by its name: kernel("ch10_build")."""

    def load(name):
        if shutil.which("g++") is None:
            pytest.skip("no g++ to build the emulator of CUDA")
        request.node.user_properties.append(("exercise", name))
        return emulated(name)

    return load
