"""What judges items: AdaGRPO's ranker, then FlexRec's critic. Imports the ground, the core and data/."""
