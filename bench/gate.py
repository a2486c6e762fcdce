"""What AdaGRPO's gate admits on the built-in world, and whether the ranker is right there.

    python -m bench.gate

One world, one supervised policy, no reinforcement: BATCHES batches of its rollouts, with each designed
ranker. It is right for users of A; for those of B it is noise or harmful. *In A* is the share of the admitted
contexts for whose users the ranker is right (half of all users are in A). The second table is the stratified
analysis: by how many places the ranker puts the target higher than the policy does.
"""

from dataclasses import replace

import torch

from bench.claims import BASE, TUNING, begin
from bench.timing import write
from minirec.data.dataset import contexts
from minirec.models import ranker
from minirec.objectives import adagrpo, settings_of
from minirec.tasks import NextItem
from tutorials.strata import stratify

BATCHES, MOST = 60, 10  # the second: negatives drawn, of which a row of the table uses the first M


def main() -> None:
    """Roll out once per ranker, then apply every gate to the same ranks."""
    run, start = begin(replace(BASE, seed=TUNING[0], negatives=MOST))
    cfg, world = settings_of(run.cfg, "adagrpo"), run.dataset.world
    group = cfg.group
    lines = [f"{BATCHES} batches of {cfg.contexts} contexts, G = {group}, seed {cfg.seed}", ""]
    for kind in ("right", "noise", "harmful"):
        task = NextItem(cfg, run.trie, contexts(run.dataset.fresh), ranker.designed(world, kind))
        parts, in_a = [], []
        for step in range(BATCHES):
            x = task.act(start, step)
            parts.append(adagrpo.ranks(x))
            in_a.append(~world.tail_user[x.batch.user])
        policy, target, negatives, short = (torch.cat(part) for part in zip(*parts, strict=True))
        right = torch.cat(in_a)
        lines += [f"## {kind}", ""]
        lines += ["| τ | ρ | M | D | Q | admitted | in A |", "|---|---|---|---|---|---|---|"]
        gates = [(tau, 0.25, 5) for tau in (1 / 16, 1 / 8, 1 / 4, 1 / 2)]
        gates += [(1 / 8, rho, 5) for rho in (0.0, 1 / 8, 1 / 2)]
        gates += [(1 / 8, 0.25, count) for count in (1, 3, 10)]
        for tau, rho, count in gates:
            d, q = adagrpo.diagnose(policy, target, negatives[:, :count], group, tau, rho)
            q &= ~short
            both = d & q
            shares = [d.double().mean(), q.double().mean(), both.double().mean()]
            cells = [f"{tau:g}", f"{rho:g}", str(count), *(f"{share:.3f}" for share in shares)]
            lines.append("| " + " | ".join([*cells, f"{right[both].double().mean():.2f}"]) + " |")
        gain = (policy - target).double()
        nearest = negatives[:, :5].amin(1) / group
        mean, sizes = stratify(policy / group, nearest, gain, bins=3)
        lines += [
            "",
            f"rank gain over all contexts: {gain.mean():+.2f} places; by difficulty × discriminability:",
            "",
        ]
        lines += ["| rank_π(g) / G | negatives up to 1/3 | to 2/3 | beyond |", "|---|---|---|---|"]
        for name, row, counts in zip(("to 1/3", "to 2/3", "beyond"), mean, sizes, strict=True):
            cells = (
                f"{value:+.2f} ({count})" for value, count in zip(row.tolist(), counts.tolist(), strict=True)
            )
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    write("gate", "What the gate admits", lines)


if __name__ == "__main__":
    main()
