"""python -m minirec.ops: which backend serves what, and why."""

from minirec.ops.load import backends

print("\n".join(backends()))
