"""Shape-only arrays answer as NumPy does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.model.arrays import Product, Shape, grouped_matmul, grouped_outer, metered

DIMS = st.lists(st.integers(1, 5), min_size=1, max_size=4)
UNARY = [
    np.exp,
    lambda x: x + 1,
    lambda x: 2 / x,
    lambda x: -x * x,
    lambda x: x > 0,
    lambda x: np.sum(x, axis=-1),
    lambda x: np.mean(x, axis=0, keepdims=True),
    np.max,
    lambda x: np.concatenate([x, x], axis=-1),
    lambda x: np.where(x > 0, x, -np.inf),
    lambda x: np.argsort(-x, axis=-1, kind="stable"),
    np.sort,
    np.zeros_like,
    lambda x: x[..., None],
    lambda x: x[:1],
    lambda x: x[..., ::2],
    lambda x: x[0],
    lambda x: x.reshape(-1),
    lambda x: x.T,
    lambda x: np.swapaxes(x, 0, -1),
    lambda x: np.zeros_like(x, shape=(3, 2)),
    lambda x: np.arange(2, 7, like=x),
    lambda x: np.tri(3, 5, 2, like=x),
    lambda x: np.where(np.tri(3, 5, like=x) > 0, 1.0, 0.0),
]


@pytest.mark.parametrize("index", range(len(UNARY)))
@given(dims=DIMS)
def test_one_operand(index, dims):
    assert np.shape(UNARY[index](Shape(*dims))) == np.shape(UNARY[index](np.ones(dims)))


@given(batch=st.lists(st.integers(1, 4), max_size=2), m=st.integers(1, 5), k=st.integers(1, 5), n=st.integers(1, 5))
def test_products_have_numpys_shape_and_are_counted(batch, m, k, n):
    with metered() as meter:
        result = Shape(*batch, m, k) @ Shape(k, n)
    assert result.shape == (np.ones((*batch, m, k)) @ np.ones((k, n))).shape
    assert meter.products == [Product(1, int(np.prod(batch, initial=1)) * m, n, k)]
    assert sum(product.flop for product in meter.products) == 2 * np.prod(batch, initial=1) * m * n * k


def test_batched_products_are_groups():
    with metered() as meter:
        assert (Shape(2, 8, 16, 4) @ Shape(2, 8, 4, 16)).shape == (2, 8, 16, 16)
    assert meter.products == [Product(16, 16, 16, 4)]


def test_rows_are_looked_up_by_index_arrays():
    assert Shape(10, 3)[Shape(4, 2)].shape == np.ones((10, 3))[np.zeros((4, 2), dtype=int)].shape
    assert Shape(10, 3)[np.array([1, 2])].shape == (2, 3)


def test_what_numpy_would_refuse_is_refused():
    with pytest.raises(ValueError, match="cannot multiply"):
        Shape(2, 3) @ Shape(4, 5)
    with pytest.raises(ValueError, match="cannot reshape"):
        Shape(2, 3).reshape(4, 2)
    with pytest.raises(ValueError, match="broadcast"):
        Shape(2, 3) + Shape(4, 3)
    with pytest.raises(TypeError):
        np.linalg.svd(Shape(2, 2))


def test_grouped_products_equal_one_product_per_group():
    rng = np.random.default_rng(1)
    counts = np.array([3, 0, 2])
    x, w = rng.standard_normal((5, 4)), rng.standard_normal((3, 6, 4))
    expected = np.concatenate([x[:3] @ w[0].T, x[3:] @ w[2].T])
    np.testing.assert_allclose(grouped_matmul(x, w, counts), expected)
    gradient = grouped_outer(expected, x, counts)
    np.testing.assert_allclose(gradient[0], expected[:3].T @ x[:3])
    assert not gradient[1].any()


def test_grouped_products_of_shapes_count_equal_groups():
    with metered() as meter:
        assert grouped_matmul(Shape(64, 4), Shape(8, 6, 4), Shape(8)).shape == (64, 6)
        assert grouped_outer(Shape(64, 6), Shape(64, 4), Shape(8)).shape == (8, 6, 4)
    assert meter.products == [Product(8, 8, 6, 4), Product(8, 6, 4, 8)]
