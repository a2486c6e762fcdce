"""minirec: reinforcement learning for generative recommendation, written to be read."""
