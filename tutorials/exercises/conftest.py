"""Exercises are read from this folder; from ../solutions with EXERCISES=solutions."""

import importlib.util
import os
from pathlib import Path

import pytest


@pytest.fixture
def exercise(request):
    """The module of an exercise, by its name: exercise("ch05_build")."""

    def load(name):
        request.node.user_properties.append(("exercise", name))  # for tests/test_tutorials.py
        folder = Path(__file__).parents[1] / os.environ.get("EXERCISES", "exercises")
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
