"""minirec: reinforcement learning for generative recommendation, written to be read.

The files in the order to read them. No file imports one that comes later.

The ground:

    errors              one clear line for bad input
    files               files that are whole or absent
    noise               random numbers made from a use, a seed and a step
    settings            every setting of a run, and the command line

The core, from a context to an update of the policy:

    records             what passes between the stages
    trie                the catalogue as tensors: which codes may follow, which item a tuple is
    policy              the transformer, and the one function that scores with it
    rollout             sampling, beam search, ranking a closed set
    ops/reference       swap rewards and group normalisation: the truth in torch
    ops/load            the kernels of csrc/, where they are built
    ops/arguments       what they take
    ops                 the two operations
    rewards             what an item or a list is worth
    objectives/loss     the loss that all objectives share
    objectives/grpo     a rollout against the mean of its group
    objectives/adagrpo  only where the policy is unsure and the ranker is sure
    objectives/recast   repair silent groups, then learn from one pair
    objectives/flexrec  credit for every position of a list
    objectives/continued  the control: NLL alone
    objectives          all of them
    tasks               what the policy is asked: the next item, or a ranking
    loop                one step of reinforcement learning

Around it, from a file to a Dataset:

    data/dataset        a catalogue, its users, and three splits
    data/world          a simulated world whose truth is known
    data/exposure       what it shows and who clicks; rankers of designed reliability
    data/tables         text files, with line numbers in every error
    data/splits         training, validation and test without a leak
    data/catalogue      titles and side information
    data/vectors        items as vectors
    data/logs           real click logs
    data/codes          items as code tuples
    data/contexts       users that supervised training leaves to reinforcement learning
    data/lists          closed sets to rank, and what their items are worth for a need
    data/prepare        from a log or the world to a Dataset and codes

What judges items:

    models/fit          one loop for both
    models/ranker       a reward model that is right here and wrong there
    models/critic       mean and variance of the gains that were not seen

What is measured:

    measure/exact       the oracle: what rollouts estimate, by enumeration
    measure/baselines   the floors: popularity, Markov chain, item-kNN
    measure/metrics     of ranked lists
    measure/evaluation  over the full catalogue
    measure/rankers     how good a ranker is
    measure/rankings    how good rankings of closed sets are, and their floors
    measure/probe       estimates beside exact values
    measure/pictures    pictures
    measure/report      tables

A run:

    run/machine         device, memory, processes, Ctrl-C
    run/folder          the run and its files
    run/training        how any training is driven to its end
    run/supervised      supervised training
    run/reinforced      reinforcement learning
    run/lists           the arms that rank closed sets
    run/experiment      every objective from the same start
    run/recommender     a trained run answers

The commands:

    train               the whole run
    evaluate            the tables of a run again
    recommend           a history in, items out
    ops/__main__        which kernels serve
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minirec.run.recommender import Recommender


def load(folder: str | Path, device: str = "cpu") -> Recommender:
    """Load a trained run from its folder, with the weights that validation chose.

    Raises InputError as ``minirec.run.recommender.load`` does.
    """
    from minirec.run import recommender  # here, so that ``import minirec`` stays light

    return recommender.load(folder, device)
