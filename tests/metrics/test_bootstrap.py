import itertools

import numpy as np
import pytest

from lumen.errors import DataError
from lumen.metrics.bootstrap import Interval, interval, resampled_means


def test_means_of_two_rows_are_those_of_the_four_draws():
    # Two rows 0 and 1 are drawn as 00, 01, 10, 11: means 0, .5, .5, 1.
    means = resampled_means(np.array([[0.0], [1.0]]), draws=4000)[:, 0]
    assert set(means.tolist()) == {0.0, 0.5, 1.0}
    shares = [(means == value).mean() for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_columns_are_drawn_together():
    values = np.array([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0], [1.0, 2.0]])
    means = resampled_means(values, draws=300)
    # The second model is better by one on each question, so by one on each draw, however the draw falls.
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)
    assert len(np.unique(means[:, 0])) == 5
    np.testing.assert_array_equal(resampled_means(values[:, :1], draws=300), means[:, :1])
    assert not np.array_equal(resampled_means(values, draws=300, seed=1), means)


def test_the_interval_of_three_rows_is_that_of_all_27_draws():
    values = np.array([0.0, 1.0, 5.0])
    every = np.array([np.mean(draw) for draw in itertools.product(values, repeat=3)])
    found = interval(values.mean(), resampled_means(values[:, None], draws=20_000)[:, 0], level=0.8)
    assert (found.low, found.high) == tuple(np.quantile(every, [0.1, 0.9]))
    assert found.value == 2.0


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 0.3, 1), (-0.3, -0.1, -1), (-0.1, 0.3, 0), (0.0, 0.3, 0)])
def test_a_sign_is_there_where_the_interval_excludes_zero(low, high, sign):
    found = Interval(0.1, low, high)
    assert found.sign == sign
    assert found.lies_within(0.31)
    assert not found.lies_within(0.3)


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(DataError, match="no question"):
        resampled_means(np.zeros((0, 2)))
