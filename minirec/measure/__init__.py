"""What is measured. Imports everything but run/ and the commands. Read exact.py first, report.py last."""
