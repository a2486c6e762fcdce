"""What the pictures show, read from their axes."""

import pytest

from minirec.measure import pictures
from minirec.measure.report import DIFFERENCE

pytest.importorskip("matplotlib")

ROWS = [
    {"method": name, "split": "test", "ndcg@10": value}
    for name, value in (
        ("popularity", 0.05),
        ("true law", 0.3674),
        ("supervised", 0.25),
        ("supervised continued", 0.26),
        ("AdaGRPO, simulated reward", 0.25),
    )
]
PAIRS = [("AdaGRPO, simulated reward", "supervised continued"), ("supervised", "popularity")]
COMPARED = [
    dict(zip(DIFFERENCE, (*pair, metric, 0.01, -0.02, 0.03), strict=True))
    for pair in PAIRS
    for metric in ("ndcg@10", "recall@10")
]
LINE = {"ndcg@10": 0.25, "ndcg@5": 0.6, "estimate_error": 0.1}
LOGS = {
    name: [LINE | {"step": step, "exact_reward": worth, "estimate": worth} for step in (0, 40, 80)]
    for name, worth in (("grpo", 0.03), ("adagrpo", 0.5), ("recast", 0.04), ("flexrec", 0.7))
}
SCALES = {"grpo": "hit", "adagrpo": "ranker", "recast": "hit", "flexrec": "NDCG"}
SHARES = [{"step": i} | {x: 0.5 for y in pictures.STAGES.values() for x in y} for i in range(3)]
FIGURES = {
    "methods": lambda: pictures._methods(ROWS, COMPARED),
    "learning": lambda: pictures._learning([{"epoch": i, "nll": 3.5, "ndcg@10": 0.1} for i in (3, 6)]),
    "arms": lambda: pictures._arms(LOGS, SCALES),
    "groups": lambda: pictures._groups(SHARES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_word_of_a_picture_is_cut(name):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = FIGURES[name]()
    FigureCanvasAgg(figure).draw()
    box, pixel = figure.get_tightbbox(), 1 / figure.dpi  # of all that is drawn, in inches
    assert min(box.x0, box.y0) > -pixel
    assert box.x1 < figure.get_figwidth() + pixel
    assert box.y1 < figure.get_figheight() + pixel


def test_rewards_of_other_scale_have_axes_of_their_own_that_say_which_arm():
    panels = pictures._arms(LOGS, SCALES).axes
    kinds = zip(panels[::2], panels[1::2], strict=True)
    shown = {right.get_ylabel(): left.get_legend_handles_labels()[1] for left, right in kinds}
    assert shown == {
        "reward (hit)": ["GRPO", "ReCast"],
        "reward (ranker)": ["AdaGRPO"],
        "reward (NDCG)": ["FlexRec"],
    }
    assert "ReCast" in pictures._groups(SHARES).get_suptitle()


def test_differences_of_arms_are_drawn_with_their_intervals():
    _, right = pictures._methods(ROWS, COMPARED).axes
    interval, zero = (line.get_xdata() for line in right.lines)
    assert list(interval) == [-0.02, 0.01, 0.03]
    assert list(zero) == [0, 0]
    assert [label.get_text() for label in right.get_yticklabels()] == [" minus ".join(PAIRS[0])]
