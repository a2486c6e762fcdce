"""Run pytest once per line of standard input, each time in a fork of a process that has torch already.

A line names a file for the output, and the tests. Loading torch takes longer than a short test. Nothing of
minirec is loaded before the fork, so every run reads the files as they are by then.
"""

import os
import sys

import hypothesis  # noqa: F401
import pytest
import torch._dynamo  # noqa: F401  an optimiser loads it

if __name__ == "__main__":
    for line in sys.stdin:
        output, *tests = line.split()
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
