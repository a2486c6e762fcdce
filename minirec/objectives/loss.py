"""The loss that all objectives share: a clipped ratio, the k3 KL to the reference, and NLL.

    per token:     -min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A) + β·k3,   ρ = π/π_old                   [GRPO]
                   k3 = exp(d) - d - 1,   d = log π_ref - log π
    per sequence:  the mean over its tokens
    in all:        λ · sum over sequences / (B · width) + sum of NLL(target) / B      [divisors: ours]

``width`` is the method's own (G, or 2 for ReCast), never the rows that survive; NLL is a mean over tokens
too, or λ would have no meaning. With one update per batch of rollouts, log π_old is the current one,
detached: ρ is exactly 1, the clip never acts, and as advantages sum to 0 the loss is near 0 while its
gradient is not.

k3's value is unbiased for KL(π‖ref), but its gradient inside the loss is that of KL(ref‖π) [ours, checked
by enumeration]: an item of one code settles at β·ref/(λ - r), not at ref·exp(r/β); with more codes, every
node of the trie does so for itself. ``measure/exact.py`` knows all three.
"""

import torch
from torch import Tensor, nn

from minirec.ops.reference import Maybe
from minirec.policy import Policy, Prompt, score
from minirec.records import Batch, Signal
from minirec.settings import Config
from minirec.trie import Trie

LARGEST = 20.0  # of d and of log ρ: exp overflows at 88. Beyond it k3 is a straight line, ρ a constant


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """Estimate KL(π‖ref) in nats, token by token, from tokens that π drew; exactly 0 where the two agree.

    Source: Schulman's k3, as in GRPO (2402.03300); the straight line beyond d = 20 is ours.
    """
    d = reference - logp
    bent = d.clamp(max=LARGEST)
    return bent.exp() * (1 + d - bent) - d - 1


def token_loss(
    logp: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, low: float, high: float, kl: float
) -> tuple[Tensor, Tensor]:
    """The clipped loss and the KL of each token, and where the clip acts.

    Log-probabilities (R, S, P, L) by the policy that learns, the one that acted and the reference; advantages
    (R, S, P), one for all L tokens of an item; the ratio is clipped below 1 - low and above 1 + high. Returns
    the loss (R, S, P, L), and a mask (R, S, P, L) of the tokens that have no gradient but that of the KL.
    Source: GRPO (2402.03300); the asymmetric clip as in OpenOneRec-RL (2512.24762).
    """
    ratio, a = (logp - old).clamp(max=LARGEST).exp(), advantages[..., None]
    free, clipped = ratio * a, ratio.clamp(1 - low, 1 + high) * a
    return kl * k3(logp, reference) - torch.minimum(free, clipped), clipped < free


def target_nll(policy: Policy, prompt: Prompt, trie: Trie, targets: Tensor) -> Tensor:
    """−log π(g | x) of targets (B, n), without a mask: (B,) nats, a mean over their tokens [mean: ours]."""
    real = targets >= 0  # (B, n)
    logp = score(policy, prompt, trie.encode(targets).clamp(min=0)[:, :, None])  # (B, n, 1, L)
    return -(logp.mean((2, 3)) * real).sum(1) / real.sum(1).clamp(min=1)


def logprobs(policy: Policy, trie: Trie, batch: Batch, signal: Signal, allowed: Maybe) -> Tensor:
    """Score a signal's sequences under the masks (R, S, P, L, V) of its rollouts: (R, S, P, L) in nats."""
    some = batch.select(signal.rows)
    prompt = policy.encode(some.condition, trie.encode(some.history))
    return score(policy, prompt, signal.codes, allowed)


class Loss(nn.Module):
    """The policy together with its loss, so that several processes can be wrapped around one forward pass."""

    def __init__(self, policy: Policy, trie: Trie, cfg: Config) -> None:
        super().__init__()
        self.policy, self.trie, self.cfg = policy, trie, cfg

    def forward(
        self, batch: Batch, signal: Signal, allowed: Maybe, old: Maybe, reference: Tensor, size: int
    ) -> tuple[Tensor, dict[str, tuple[Tensor, int]]]:
        """This process's part of the loss, and of what is logged the sum and its divisor.

        Log-probabilities (R, S, P, L) by the policy that acted (None: the current one, as this is the first
        update) and by the reference; ``size`` is B, the contexts of all processes.
        """
        cfg, facts = self.cfg, {}
        loss = 0.0 * sum(p.sum() for p in self.policy.parameters())  # without rows, backward runs too
        if signal.nll:
            prompt = self.policy.encode(batch.condition, self.trie.encode(batch.history))
            nll = target_nll(self.policy, prompt, self.trie, batch.targets)
            loss = loss + nll.sum() / size
            facts["nll"] = nll.sum(), len(nll)
        if len(signal.rows):
            logp = logprobs(self.policy, self.trie, batch, signal, allowed)
            before = logp.detach() if old is None else old
            a = signal.advantages
            tokens, clipped = token_loss(logp, before, reference, a, cfg.clip_low, cfg.clip_high, cfg.kl)
            loss = loss + signal.weight * tokens.mean((2, 3)).sum() / (size * signal.width)
            facts["kl"] = k3(logp.detach(), reference).sum(), logp.numel()
            facts["clipped"] = clipped.sum(), logp.numel()
        return loss, facts
