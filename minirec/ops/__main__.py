"""python -m minirec.ops: which backend serves what, and why."""

from minirec.ops.load import describe

print("\n".join(describe()))
