"""What judges items: the ranker of AdaGRPO and the critic of FlexRec.

Imports the ground, the core and data/. Read ranker.py first, then critic.py.
"""
