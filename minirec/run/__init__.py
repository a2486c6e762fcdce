"""A run: its folder, the machine and its processes, training, and the experiment of several arms.

These files may import all others but the commands. Read ``training.py`` first, then ``experiment.py``.
"""
