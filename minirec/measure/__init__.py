"""What is measured: exact values by enumeration, floors, metrics, evaluation, the report and its pictures.

Imports everything but run/ and the commands. Read exact.py first.
"""
