import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from model.results import Classification
from service.answers import AnswerOptions, RankedClass, ranked_classes

SCORES = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])
)


@given(
    SCORES,
    st.integers(1, 50),
    st.none() | st.floats(0, 1, width=32),
    st.none() | st.frozensets(st.integers(0, 39)),
)
def test_it_ranks_like_a_sort_of_all(
    scores: NDArray[np.float32], top_k: int, threshold: float | None, wanted: frozenset[int] | None
) -> None:
    """Ties included: many of these scores are equal."""
    options = AnswerOptions(top_k=top_k, threshold=threshold, class_ids=wanted)
    rows = [
        (-float(score), number)
        for number, score in enumerate(scores)
        if (threshold is None or score >= threshold) and (wanted is None or number in wanted)
    ]
    expected = [RankedClass(number, -score) for score, number in sorted(rows)[:top_k]]
    assert ranked_classes(Classification(scores), options) == expected
