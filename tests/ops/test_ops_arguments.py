"""Arguments that do not fit: one error, which names the argument."""

import pytest
import torch

from minirec.ops import group_normalize, swap_advantages, swap_ndcg

GAINS = torch.rand(2, 3, 5)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gains", {"gains": [1.0, 2.0]}),
        ("gains", {"gains": torch.ones(3, dtype=torch.int64)}),
        ("gains", {"gains": torch.ones(3, dtype=torch.float16)}),
        ("gains", {"gains": torch.tensor(1.0)}),
        ("gains", {"gains": torch.tensor([1.0, -1.0])}),
        ("gains", {"gains": torch.tensor([1.0, NAN])}),
        ("gains", {"gains": torch.tensor([1.0, INF])}),
        ("idcg", {"idcg": torch.ones(3, 2)}),
        ("idcg", {"idcg": torch.ones(2, 3, 1)}),
        ("idcg", {"idcg": torch.ones(3, dtype=torch.int64)}),
        ("idcg", {"idcg": torch.tensor(-1.0)}),
        ("idcg", {"idcg": torch.tensor(NAN)}),
        ("idcg", {"idcg": torch.ones((), device="meta")}),
        ("lengths", {"lengths": torch.tensor(6)}),
        ("lengths", {"lengths": torch.tensor(-1)}),
        ("lengths", {"lengths": torch.tensor(2.0)}),
        ("lengths", {"lengths": torch.tensor([1, 2])}),
        ("mask", {"mask": torch.ones(5)}),
        ("mask", {"mask": torch.ones(4, dtype=torch.bool)}),
        ("cutoff", {"cutoff": 0}),
        ("pool", {"pool": "before"}),
        ("out", {"out": torch.empty(2, 3)}),
        ("out", {"out": torch.empty(2, 3, 5, dtype=torch.float64)}),
        ("out", {"out": torch.empty(2, 3, 5, requires_grad=True)}),
        ("out", {"gains": GAINS.clone(), "out": "itself"}),
        ("out", {"out": torch.empty(5).expand(2, 3, 5)}),
        ("out", {"out": [0.0]}),
        ("lengths", {"lengths": [2, 3]}),
        ("mask", {"mask": [True]}),
        ("cutoff", {"cutoff": 2.5}),
        ("cutoff", {"cutoff": "2"}),
        ("gains", {"gains": torch.ones(3).to_sparse()}),
    ],
)
@pytest.mark.parametrize("operation", [swap_ndcg, swap_advantages])
def test_swap_rewards_name_the_argument_that_does_not_fit(operation, name, arguments):
    arguments = {"gains": GAINS} | arguments
    if arguments.get("out") == "itself":
        arguments["out"] = arguments["gains"]
    with pytest.raises(ValueError, match=f"^{name}: "):
        operation(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rewards", {"rewards": torch.ones(3, dtype=torch.bool)}),
        ("rewards", {"rewards": torch.tensor(1.0)}),
        ("rewards", {"rewards": torch.tensor([NAN, 1.0])}),
        ("rewards", {"rewards": torch.tensor([-INF, 1.0])}),
        ("dim", {"dim": 3}),
        ("mask", {"mask": torch.ones(2, 3, 4, dtype=torch.bool)}),
        ("mask", {"mask": torch.ones(2, 3, 5)}),
        ("offsets", {"offsets": torch.tensor([0, 5]), "mask": torch.ones(5, dtype=torch.bool)}),
        ("offsets", {"offsets": torch.tensor([0, 3])}),
        ("offsets", {"offsets": torch.tensor([1, 5])}),
        ("offsets", {"offsets": torch.tensor([0, 4, 2, 5])}),
        ("offsets", {"offsets": torch.tensor([0.0, 5.0])}),
        ("offsets", {"offsets": torch.tensor([[0, 5]])}),
        ("offsets", {"offsets": torch.tensor([], dtype=torch.int64)}),
        ("offsets", {"offsets": [0, 5]}),
        ("dim", {"dim": "x"}),
        ("dim", {"dim": 1.0}),
        ("ddof", {"ddof": 2}),
        ("ddof", {"ddof": 1.0}),
        ("ddof", {"ddof": True}),
        ("eps", {"eps": None}),
        ("leave_one_out", {"leave_one_out": "no"}),
        ("eps", {"eps": -1.0}),
        ("eps", {"eps": NAN}),
        ("scale", {"scale": "var"}),
        ("out", {"out": torch.empty(5)}),
    ],
)
def test_normalising_names_the_argument_that_does_not_fit(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: "):
        group_normalize(**({"rewards": GAINS} | arguments))


def test_out_may_not_lie_in_the_memory_of_another_input_either():
    memory = torch.ones(200)
    with pytest.raises(ValueError, match=r"^out: lies among"):
        swap_ndcg(torch.rand(50, 4), memory[:50], out=memory.view(50, 4))


def test_one_list_has_no_group():
    with pytest.raises(ValueError, match=r"^gains: .*one list"):
        swap_advantages(torch.ones(4))


def test_what_is_not_counted_may_hold_anything():
    broken = torch.tensor([[1.0, NAN, 0.5], [INF, 2.0, -3.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert swap_ndcg(broken, mask=mask).isfinite().all()
    assert group_normalize(broken, mask=mask).isfinite().all()
    assert swap_ndcg(broken, lengths=torch.tensor([1, 0])).isfinite().all()


def test_values_are_not_looked_at_where_that_is_not_wanted():
    assert swap_ndcg(torch.tensor([1.0, NAN]), torch.tensor(1.0), check=False).isnan().any()
    assert group_normalize(torch.tensor([1.0, NAN]), check=False).isnan().all()
