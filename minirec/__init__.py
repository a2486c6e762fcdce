"""minirec: reinforcement learning for generative recommendation, written to be read.

The files in the order to read them; no file imports one that comes later. The ground:

    errors  files  noise  settings

The core, from a context to an update of the policy:

    records                 what passes between the stages
    trie                    the catalogue as tensors: which codes may follow, which item a tuple is
    policy                  the transformer, and the one function that scores with it
    rollout                 sampling, beam search, ranking a closed set
    ops/reference  ops/arguments  ops/triton  ops/load  ops  swap rewards and group normalisation
    rewards                 what an item or a list is worth
    objectives/loss         the loss that all objectives share
    objectives/grpo         a rollout against the mean of its group
    objectives/adagrpo      only where the policy is unsure and the ranker is sure
    objectives/recast       repair silent groups, then learn from one pair
    objectives/flexrec      credit for every position of a list
    objectives/continued    the control: NLL alone
    objectives              all of them, and their settings
    tasks                   what the policy is asked: the next item, or a ranking
    loop                    one step of reinforcement learning

Around it, from a file to a Dataset; what judges items; what is measured; a run; the commands:

    data/dataset  data/world  data/tables  data/splits  data/catalogue  data/vectors
    data/logs  data/codes  data/lists  data/prepare
    models/ranker  models/critic
    measure/exact  measure/baselines  measure/metrics  measure/evaluation  measure/rankings
    measure/pictures  measure/report
    run/machine  run/folder  run/training  run/lists  run/experiment
    train  evaluate  recommend  ops/__main__
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read by torch: threads that wait shall not spin

if TYPE_CHECKING:
    from minirec.recommend import Recommender


def load(folder: str | Path, device: str = "cpu") -> Recommender:
    """Load a trained run from its folder, with the weights that validation chose.

    Raises InputError if the folder or a file in it is missing, damaged, or does not fit.
    """
    from minirec.recommend import Recommender, find_run  # here, so that ``import minirec`` stays light

    return Recommender(find_run(folder, device))
