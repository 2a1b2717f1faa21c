"""keras.ops: every operation computes as Keras does and is explained, or is refused with a reason."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import partial

import jax
import numpy as np
import pytest

from backtrace_jax import check, explain
from backtrace_jax.errors import UnsupportedError
from backtrace_jax.importers.keras.exclusions import EXCLUDED
from backtrace_jax.importers.keras.exporting import exported, write
from backtrace_jax.importers.keras.registry import OPERATIONS
from backtrace_jax.onnx_backend import run_model

from .keras_operations import FAMILIES, UNRUN, alone, family
from .keras_zoo import L, as_keras_runs, keras, ops

CLOSE, ROUNDING, LONGEST = 1e-5, 1e-5, 300


def public():
    """Names of keras.ops and keras.ops.image, but for those of modules."""
    found = {name: getattr(ops, name) for name in dir(ops) if not name.startswith("_")}
    found |= {f"image.{name}": getattr(ops.image, name) for name in dir(ops.image) if not name.startswith("_")}
    return {name for name, value in found.items() if callable(value) and not inspect.ismodule(value)}


def classes():
    """Names of all classes of operations in the sources."""
    base = importlib.import_module("keras.src.ops.operation").Operation
    package, found = importlib.import_module("keras.src.ops"), set()
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.endswith("test"):
            members = vars(importlib.import_module(f"keras.src.ops.{module.name}"))
            found |= {each.__name__ for each in members.values() if inspect.isclass(each) and issubclass(each, base)}
    return found - {"Operation", "SegmentReduction"}


NO_VALUES = {  # make numbers out of nothing, ask about a value, or wrap a function: no operation of a graph
    "bartlett", "blackman", "convert_to_numpy", "custom_gradient", "dtype", "empty", "eye", "hamming", "hanning",
    "identity", "is_tensor", "kaiser", "ndim", "ones", "shape", "size", "tri", "vectorize", "zeros",
}  # fmt: skip
REFUSED = {  # by the class that the function calls
    "arange": "Arange", "argpartition": "Argpartition", "associative_scan": "AssociativeScan", "bincount": "Bincount",
    "bitwise_left_shift": "BitwiseLeftShift", "bitwise_right_shift": "BitwiseRightShift", "cholesky": "Cholesky",
    "cholesky_inverse": "CholeskyInverse", "cond": "Cond", "corrcoef": "Corrcoef", "correlate": "Correlate",
    "ctc_decode": "CTCDecode", "ctc_loss": "CTCLoss", "det": "Det", "eig": "Eig", "eigh": "Eigh", "erfinv": "Erfinv",
    "fori_loop": "ForiLoop", "gcd": "Gcd", "geomspace": "Geomspace", "histogram": "Histogram", "i0": "I0",
    "inv": "Inv", "istft": "ISTFT", "jvp": "JVP", "lcm": "Lcm", "left_shift": "LeftShift", "linspace": "Linspace",
    "logdet": "Logdet", "logspace": "Logspace", "lstsq": "Lstsq", "lu_factor": "LuFactor", "map": "Map",
    "matrix_rank": "MatrixRank", "nanmedian": "Nanmedian", "nanpercentile": "Nanpercentile",
    "nanquantile": "Nanquantile", "nextafter": "Nextafter", "nonzero": "Nonzero", "pinv": "Pinv", "polar": "Polar",
    "qr": "Qr", "right_shift": "RightShift", "scan": "Scan", "slogdet": "Slogdet", "solve": "Solve",
    "solve_triangular": "SolveTriangular", "sparsemax": "Sparsemax", "svd": "SVD", "switch": "Switch",
    "unique": "Unique", "vectorized_map": "VectorizedMap", "view": "View", "view_as_complex": "ViewAsComplex",
    "view_as_real": "ViewAsReal", "while_loop": "WhileLoop", "image.affine_transform": "AffineTransform",
    "image.elastic_transform": "ElasticTransform", "image.hsv_to_rgb": "HSVToRGB", "image.ssim": "SSIM",
    "image.map_coordinates": "MapCoordinates", "image.perspective_transform": "PerspectiveTransform",
    "image.rgb_to_hsv": "RGBToHSV", "image.scale_and_translate": "ScaleAndTranslate",
}  # fmt: skip


def test_every_name_is_computed_or_refused():
    computed = {name for calls in (*FAMILIES.values(), UNRUN) for name in calls}
    assert public() == computed | NO_VALUES | set(REFUSED)
    assert not computed & (NO_VALUES | set(REFUSED))
    assert set(REFUSED.values()) <= set(EXCLUDED)


def test_every_class_is_written_or_excluded():
    assert classes() - set(OPERATIONS) - set(EXCLUDED) == set()
    assert set(OPERATIONS) & set(EXCLUDED) == set()
    assert set(EXCLUDED) <= classes()


@pytest.mark.parametrize("name", FAMILIES)
def test_operations_compute_the_same(name):
    found = family(name)
    with as_keras_runs():
        expected = jax.jit(partial(found.model, training=False))(found.inputs)
    imported = exported(found.model)
    names = [each.name for each in imported.proto.graph.output]
    answers = dict(zip(names, run_model(imported.proto, found.inputs), strict=True))
    assert [each for each, value in expected.items() if not _same(answers[each], np.asarray(value))] == []


@pytest.mark.parametrize("name", UNRUN)
def test_operations_that_keras_runs_only_by_themselves(name):
    found = alone(UNRUN[name])
    with as_keras_runs():
        expected = UNRUN[name].build(*map(ops.convert_to_tensor, found.inputs.values()))
    (answer,) = run_model(exported(found.model).proto, found.inputs)
    assert _same(answer, np.asarray(expected))


def _same(ours, theirs):
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return False
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return np.abs(ours - theirs).max() <= CLOSE * max(np.abs(theirs).max(), 1)


@pytest.mark.parametrize("name", ["along axes", "moved", "products", "whole"])
def test_books_close_and_relevance_reaches_every_input(name):
    found, settings = family(name), {"batch_axis": None, "target": (0, 1)} if name == "whole" else {"target": 1}
    explanation = explain(exported(found.model).let_go(), found.inputs, output="answer", **settings)
    assert explanation.ledger.error.max() <= ROUNDING
    assert all(np.isfinite(relevance).all() for relevance in explanation.relevance.values())
    assert [each for each, relevance in explanation.relevance.items() if not np.abs(relevance).max()] == []


def refused(build):
    with as_keras_runs():
        value = L.Input((4, 4), name="x")
        return keras.Model(value, build(value))


@pytest.mark.parametrize(
    ("build", "operator", "way_out"),
    [
        (lambda x: ops.cholesky(x), "Cholesky", "before or behind"),
        (lambda x: ops.erfinv(x), "Erfinv", "write it with other operations"),
        (lambda x: ops.nn.sparsemax(x), "Sparsemax", "use softmax"),
        (lambda x: ops.map(lambda row: row * 2, x), "Map", "write it as layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused_is_named(build, operator, way_out):
    with pytest.raises(UnsupportedError, match=rf"layer '\w+' \({operator}\): .*{way_out}"):
        write(refused(build), "", None)


def test_what_no_road_takes_is_named():
    model = refused(ops.cholesky)
    for question in (check, lambda found: explain(found, np.ones((1, 4, 4), np.float32))):
        with pytest.raises(UnsupportedError, match=r"layer '\w+' \(Cholesky\): .*before or behind.*trace"):
            question(model)


@pytest.mark.parametrize("name", EXCLUDED)
def test_reasons_are_short_and_show_a_way_out(name):
    assert ";" in EXCLUDED[name]
    assert len(EXCLUDED[name]) <= LONGEST


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: ops.roll(x, 1), "roll along an axis"),
        (lambda x: ops.repeat(x, 2), "repeat along an axis"),
        (lambda x: ops.sort(x, axis=0), "no fixed size"),
        (lambda x: ops.split(x, 1, axis=0)[0], "no fixed size"),
        (lambda x: ops.norm(x, ord="nuc", axis=(1, 2)), "singular values"),
        (lambda x: ops.isclose(x, x, equal_nan=True), "compare without it"),
        (lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0)), "linear_ramp"), "pads by mode"),
        (lambda x: ops.quantile(x, ops.abs(x[0, 0]), axis=1), "give them as numbers"),
        (lambda x: ops.segment_sum(x, np.zeros(3, int)), "give num_segments"),
    ],
    ids=["roll", "repeat", "sort", "split", "norm", "isclose", "pad", "quantile", "segment_sum"],
)
def test_settings_that_have_no_form_are_named(build, message):
    with pytest.raises(UnsupportedError, match=message):
        write(refused(build), "", None)
