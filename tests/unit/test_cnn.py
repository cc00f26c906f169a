"""VGG: its operators against obvious loops and finite differences, its pieces against sums by hand."""

import numpy as np
import pytest

from ffsim.errors import ModelDomainError
from ffsim.model import cnn
from ffsim.model import functions as f
from ffsim.model.parameters import count, random_arrays
from ffsim.model.pieces import Workpiece, lower_piece, piece_shapes
from ffsim.model.precision import load_precision
from ffsim.model.spec import CnnSpec, Source, load_any_model
from ffsim.model.tape import recording

VGG16 = load_any_model("vgg16")
TINY = CnnSpec(
    kind="cnn",
    title="tiny",
    source=Source(ref="test", kind="assumed"),
    image=8,
    stages=((2, 3), (4,)),
    linears=(5, 3),
)
RNG = np.random.default_rng(0)


def work(images=1, precision="tf32", **options):
    return Workpiece(micro_batch=images, sequence_length=1, precision=load_precision(precision), **options)


def convolved_by_loops(x, w):
    images, side, _, _ = x.shape
    y = np.zeros((images, side, side, w.shape[0]))
    for row in range(side):
        for column in range(side):
            for i in range(3):
                for j in range(3):
                    at = row + i - 1, column + j - 1
                    if 0 <= at[0] < side and 0 <= at[1] < side:
                        y[:, row, column] += x[:, at[0], at[1]] @ w[:, i, j].T
    return y


def test_convolution_equals_its_definition():
    x, w = RNG.standard_normal((2, 5, 5, 3)), RNG.standard_normal((4, 3, 3, 3))
    assert np.allclose(cnn.convolve(x, w), convolved_by_loops(x, w), rtol=1e-12, atol=1e-12)


def loss(p, x, targets):
    return f.cross_entropy(cnn.logits(TINY, p, cnn.convolutions(TINY, p, x)), targets)


def test_gradients_equal_finite_differences():
    p = random_arrays({**piece_shapes(TINY, "convolutions"), **piece_shapes(TINY, "classifier")}, RNG)
    x, targets = RNG.standard_normal((2, 8, 8, 3)), np.array([0, 2])
    with recording() as tape:
        y = loss(p, x, targets)
    gradients = tape.backward([(y, np.ones(()))])
    for name in ("conv0_0", "conv0_1", "conv1_0", "conv1_0_bias", "linear0", "linear1_bias"):
        step = RNG.standard_normal(p[name].shape)
        up, down = ({**p, name: p[name] + sign * 1e-6 * step} for sign in (1, -1))
        slope = (loss(up, x, targets) - loss(down, x, targets)) / 2e-6
        assert np.sum(gradients[p[name]] * step) == pytest.approx(slope, rel=1e-5), name


def test_vgg16_has_the_parameters_and_the_work_of_the_published_network():
    pieces = {kind: lower_piece(VGG16, kind, work(50)) for kind in ("convolutions", "classifier")}
    parameters = {kind: count(piece_shapes(VGG16, kind)) for kind in pieces}
    assert parameters == {"convolutions": 14_714_688, "classifier": 123_642_856}
    assert sum(parameters.values()) == VGG16.parameters
    forward = sum(each.operators.flop[each.operators.phase == "F"].sum() for each in pieces.values())
    assert forward / 50 == pytest.approx(2 * 15.47e9, rel=1e-4)  # 15.35 G multiply-adds and 0.12 G in the classifier
    convolutions = pieces["convolutions"].operators
    image = 2.0 * 224 * 224 * 64 * 27 * 50  # its gradient is nobody's business
    by_phase = {phase: convolutions.flop[convolutions.phase == phase].sum() for phase in "FBW"}
    assert by_phase["F"] == by_phase["W"] == by_phase["B"] + image


def test_every_activation_is_kept_once():
    kept = lower_piece(VGG16, "convolutions", work(1)).saved_bytes
    relu = sum(len(widths) * widths[0] * (224 >> stage) ** 2 for stage, widths in enumerate(VGG16.stages))
    pool = sum(widths[0] * (112 >> stage) ** 2 for stage, widths in enumerate(VGG16.stages))
    assert kept == 4 * (relu + pool)  # outputs of ReLU in place and of pooling; the images are the loader's


def test_what_a_cnn_cannot_do_is_refused():
    with pytest.raises(ModelDomainError, match="no piece 'dense'"):
        lower_piece(VGG16, "dense", work())
    with pytest.raises(ModelDomainError, match="takes images"):
        lower_piece(VGG16, "convolutions", work(recompute=("norm",)))
    with pytest.raises(ValueError, match="halved"):
        CnnSpec(kind="cnn", title="odd", source=TINY.source, image=10, stages=((1,), (1,)), linears=(1,))
