"""From a file to a Dataset: tables, logs, catalogue, splits, the simulated world, closed lists and codes.

Files here import one another, errors, files, noise, settings, records. Start with world.py, then logs.py.
"""
