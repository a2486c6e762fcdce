"""Install minirec. The package is pure Python."""

from setuptools import find_packages, setup

setup(
    name="minirec",
    version="0.1.0",
    description="Reinforcement learning for generative recommendation, written to be read",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["minirec", "minirec.*"]),
    install_requires=["torch>=2.10", "numpy", "tqdm"],
    extras_require={
        "draw": ["matplotlib"],
        "test": ["pytest", "hypothesis", "matplotlib", "ruff"],
        "bench": ["transformers"],
    },
)
