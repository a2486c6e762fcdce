"""minirec: reinforcement learning for generative recommendation, written to be read.

The files in the order of the pipeline, which is the order to read them in:

    records     what passes between the stages; with errors and files, for bad input and whole files
    settings    every setting of a run
    config      settings from a file or the command line
    world       a simulated world whose truth is known
    exposure    what that world shows and who clicks; rankers of designed reliability
    logs        real click logs; with tables, catalogue (side information) and splits
    vectors     items as vectors, from side information and co-occurrence
    codes       items as code tuples, by residual k-means
    trie        the catalogue as tensors: which codes may follow, which item a tuple is
    score       log-probabilities of code tokens, for the sampler and the loss alike
    policy      the decoder-only transformer
    rollout     sampling, beam search, ranking a closed set
    exact       the oracle: what rollouts estimate, by enumeration
    baselines   the floors: popularity, Markov chain, item-kNN
    metrics     what is measured and logged
    machine     device, memory, processes, Ctrl-C
    checkpoint  the files of a run folder
    contexts    users that supervised training leaves to reinforcement learning
    prepare     from a log or a world to a run folder
    evaluate    over the full catalogue
    ops         swap rewards and group normalisation: the truth in torch, and the kernels of csrc/
    rewards     what an item or a list is worth
    ranker      a reward model that is right here and wrong there
    lists       closed sets to rank, and what their items are worth for a need
    critic      mean and variance of the gains that were not seen
    objectives  loss, grpo, adagrpo, recast, flexrec, continued: how a rollout becomes a signal
    tasks       the first task: say the next item
    rankings    the second task: rank a closed set
    reinforce   the loop of reinforcement learning
    fit         how any training is driven
    arms        every objective from the same start ..
    campaign    .. one after another
    train       the whole run
    report      tables
    pictures    pictures
    recommend   a history in, items out
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minirec.recommend import Recommender


def load(run: str | Path, device: str = "cpu") -> Recommender:
    """Load a trained run from its folder.

    Args:
        run: the run folder.
        device: for the policy and the trie.

    Returns:
        A ``minirec.recommend.Recommender``, with the weights that validation chose.

    Raises:
        InputError: as ``minirec.recommend.load_run``.
    """
    from minirec.recommend import load_run  # here, so that ``import minirec`` stays light

    return load_run(run, device)
