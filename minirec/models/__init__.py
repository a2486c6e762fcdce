"""What judges items: the ranker of AdaGRPO and the critic of FlexRec.

Imports errors, noise, settings, records and data/. Read ranker.py first, then critic.py.
"""
