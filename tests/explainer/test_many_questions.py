"""Many questions about the same inputs are answered as one by one, whatever else is asked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from backtrace_jax import Explainer, Explanation, NumericsError, SettingError, explain, explain_each
from backtrace_jax.engine import many, pieces
from tests.tiny import convolutional, images, network, node, random

MODES = [
    *("default", "contrastive", "lrp-epsilon", "lrp-epsilon-plus", "attnlrp"),
    *("gradient", "gradient-x-input", "integrated-gradients", "smoothgrad", "deeplift"),
]
TARGETS = [None, 2, [0, 1, 2], (4,), 3, 1, 0, 2, -1, 4]


@functools.cache
def explainer(mode: str = "default") -> Explainer:
    """Keeps the relevance of layers where the mode has any."""
    layers = None if mode == "integrated-gradients" else ["hidden"]
    return Explainer(convolutional(), mode=mode, layers=layers)


def arrays(explanation: Explanation) -> list[np.ndarray]:
    """Everything that is told of the answer."""
    ledgers = [explanation.ledger, *(channel.ledger for channel in explanation.channels.values())]
    books = [book for each in ledgers if each is not None for book in (each.signed, each.absolute)]
    channels = [array for channel in explanation.channels.values() for array in channel.relevance.values()]
    more = [] if explanation.completeness_error is None else [explanation.completeness_error]
    return [*explanation.relevance.values(), *explanation.layers.values(), *channels, *books, *more]


def same_bytes(one: Explanation, other: Explanation) -> bool:
    return [x.tobytes() for x in arrays(one)] == [x.tobytes() for x in arrays(other)]


def assert_agree(many: Explanation, alone: Explanation) -> None:
    """All that is told is the same but for rounding, and what is no number the very same."""
    for found, expected in zip(arrays(many), arrays(alone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max(initial=1e-6))
    assert (many.target is None) == (alone.target is None)
    assert many.target is None or np.array_equal(many.target, alone.target)
    assert {name: array.shape for name, array in many.outputs.items()} == {n: a.shape for n, a in alone.outputs.items()}
    for name, expected in alone.outputs.items():
        np.testing.assert_allclose(many.outputs[name], expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_answers_as_it_does_one_by_one(mode):
    together = explainer(mode).each(images(), TARGETS)
    for found, target in zip(together, TARGETS, strict=True):
        assert_agree(found, explainer(mode)(images(), target=target))
    assert len({found.relevance["x"].tobytes() for found in together}) >= 6  # the five classes, and one by example


@pytest.mark.parametrize("mode", ["default", "attnlrp", "deeplift"])
def test_an_answer_does_not_depend_on_what_else_is_asked(mode):
    together = explainer(mode).each(images(), TARGETS)
    (alone,) = explainer(mode).each(images(), [2])
    turned = explainer(mode).each(images()[::-1], TARGETS[::-1])[-2]
    assert same_bytes(alone, together[1])
    assert turned.relevance["x"][::-1].tobytes() == alone.relevance["x"].tobytes()
    assert len({together[1].fingerprint["questions_at_once"], alone.fingerprint["questions_at_once"]}) == 1


def test_explanations_share_inputs_and_outputs():
    one, other = explainer().each(images(), [1, 2])
    assert np.shares_memory(one.outputs["y"], other.outputs["y"])
    assert np.shares_memory(one.inputs["x"], other.inputs["x"])
    assert not np.shares_memory(one.relevance["x"], other.relevance["x"])


def attending() -> onnx.ModelProto:
    """Logits of 11 tokens at 6 positions, each of which reads all of them; beside them starts and ends of a span."""
    return network(
        [
            node("Gather", ["table", "ids"], ["rows"]),
            node("Add", ["rows", "places"], ["placed"]),
            node("Transpose", ["placed"], ["turned"], perm=[0, 2, 1]),
            node("MatMul", ["placed", "turned"], ["scores"]),
            node("Softmax", ["scores"], ["shares"], axis=-1),
            node("MatMul", ["shares", "placed"], ["read"]),
            node("MatMul", ["read", "head"], ["logits"]),
            node("MatMul", ["read", "ends"], ["span"]),
        ],
        {"ids": (TensorProto.INT64, ["batch", 6])},
        ("logits", "span"),
        table=random(11, 4),
        places=random(6, 4, seed=1),
        head=random(4, 11, seed=2),
        ends=random(4, 2, seed=3),
    )


def two_inputs(*dims: int | str) -> onnx.ModelProto:
    """A probability made of two inputs."""
    return network(
        [
            node("Mul", ["a", "b"], ["ab"]),
            node("Gemm", ["ab", "weight", "bias"], ["hidden"]),
            node("Tanh", ["hidden"], ["active"]),
            node("Gemm", ["active", "head"], ["logit"]),
            node("Sigmoid", ["logit"], ["y"]),
        ],
        {"a": (TensorProto.FLOAT, [*dims, 3]), "b": (TensorProto.FLOAT, [*dims, 3])},
        weight=random(3, 4),
        bias=random(4, seed=1),
        head=random(4, 1, seed=2),
    )


IDS = np.random.default_rng(0).integers(0, 11, (3, 6))
PAIR = {"a": random(5, 3, seed=3), "b": random(5, 3, seed=4)}
MASKS = [{"hidden": [0, 2]}, {"hidden": [1]}, None, {"hidden": np.full((4, 1, 1), 0.5)}]
open_batch, fixed_batch = (functools.partial(two_inputs, rows) for rows in ("batch", 2))
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Any, dict[str, Any], list[dict[str, Any]]]] = {
    "positions": (attending, IDS, {}, [{"position": p} for p in (None, 0, -1, [1, 2, 3], 4)]),
    "tokens": (attending, IDS, {}, [{"target": t, "position": p} for t, p in [(3, 1), (None, 2), ([1, 2, 3], None)]]),
    "places": (attending, IDS, {}, [{"target": t, "against": a} for t, a in [((1, 3), 4), ((5, 0), 2)]]),
    "labels": (
        attending,
        IDS,
        {"task": "token-classification", "mode": "attnlrp"},
        [{"position": p, "target": t} for p, t in [(None, None), (2, 4), (0, None)]],
    ),
    "spans": (attending, IDS, {"output": "span", "task": "span-qa"}, [{"target": t} for t in (None, (1, 3), (0, 5))]),
    "one unit": (open_batch, PAIR, {}, [{"target": t} for t in (0, None, 1, [1, 0, 1, 0, 1])]),
    "quantities": (convolutional, images(), {"task": "regression"}, [{"target": t} for t in (None, 1, [0, 1, 2])]),
    "segments": (
        functools.partial(convolutional, ("hidden",)),
        images(),
        {"task": "multi-class-segmentation", "class_axis": 1},
        [{"target": t} for t in (None, 3, 0)],
    ),
    "inner units": (convolutional, images(), {"output": "hidden"}, [{"target": t} for t in (None, (2, 1, 0))]),
    "rivals": (
        convolutional,
        images(),
        {},
        [{"target": t, "against": a} for t, a in [(3, 1), (2, [0, 1, 3]), (1, 4)]],
    ),
    "pairs": (
        convolutional,
        images(),
        {"mode": "contrastive"},
        [{"target": t, "against": a} for t, a in [(3, 1), (3, None), ([0, 1, 2], 4), (None, None)]],
    ),
    "masks": (convolutional, images(), {}, [{"target": t, "conditions": m} for t, m in enumerate(MASKS)]),
    "starts": (
        convolutional,
        images(),
        {"mode": "lrp-epsilon"},
        [{"start": s} for s in (random(3, 5), lambda y: y * (y > 0), random(3, 5, seed=1), lambda y: -y)],
    ),
    "a fixed batch": (fixed_batch, PAIR, {}, [{"target": t} for t in (1, [1, 0, 1, 0, 1], 0)]),
}


@functools.cache
def made(model: Callable[[], onnx.ModelProto], **settings: Any) -> Explainer:
    return Explainer(model(), **settings)


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_question_is_answered_as_it_is_alone(case):
    model, inputs, settings, questions = CASES[case]
    call = made(model, **settings)
    lists = {f"{n}s" if n in ("target", "position", "start") else n: [q[n] for q in questions] for n in questions[0]}
    together = call.each(inputs, **lists)
    for found, asked in zip(together, questions, strict=True):
        assert_agree(found, call(inputs, **asked))
    assert len({b"".join(array.tobytes() for array in arrays(found)) for found in together}) >= len(questions) - 1


def test_all_classes_and_all_positions():
    classes = explainer().each(images(), "all")
    np.testing.assert_array_equal([each.target for each in classes], np.arange(5)[:, None].repeat(3, 1))
    call = made(attending)
    positions = call.each(IDS, positions="all")
    assert [each.fingerprint["position"] for each in positions] == [[i] * 3 for i in range(6)]
    tokens = call.each(IDS, "all", position=2)
    np.testing.assert_array_equal([each.target for each in tokens], (22 + np.arange(11))[:, None].repeat(3, 1))
    units = made(open_batch).each(PAIR, "all")
    np.testing.assert_array_equal([each.target for each in units], [[0] * 5, [1] * 5])


def test_an_array_has_a_question_in_each_column():
    classes = np.array([[3, 1], [0, 2], [4, 4]])
    columns = explainer().each(images(), classes)
    for found, column in zip(columns, classes.T, strict=True):
        np.testing.assert_array_equal(found.target, column)
    rivals = explainer().each(images(), classes, against=(classes + 1) % 5)
    assert [each.fingerprint["against"] for each in rivals] == ((classes + 1) % 5).T.tolist()


def counted(call: Explainer, inputs: Any, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> dict[str, int]:
    """How often each half of the compiled function ran."""
    found = {"begin": 0, "walk": 0}
    run = many.run_questions

    def spy(begin: Any, walk: Any, *rest: Any) -> Any:
        def noting(name: str, function: Any) -> Any:
            def noted(*arrays: Any) -> Any:
                found[name] += 1
                return function(*arrays)

            return noted

        return run(noting("begin", begin), noting("walk", walk), *rest)

    monkeypatch.setattr("backtrace_jax.engine.compiled.run_questions", spy)
    call.each(inputs, **asked)
    return found


def test_there_is_one_forward_pass_for_each_chunk_of_examples_however_much_is_asked(monkeypatch):
    call = Explainer(convolutional(), chunk=8, mode="lrp-epsilon")
    (found,) = call.each(images(), [1])
    at_once = found.fingerprint["questions_at_once"]
    assert counted(call, images(), monkeypatch, targets=[1] * (2 * at_once + 1)) == {"begin": 1, "walk": 3}
    more = np.concatenate([images()] * 7)[:20]  # three chunks
    assert counted(call, more, monkeypatch, targets=[1, 2]) == {"begin": 3, "walk": 3}
    for each, target in zip(call.each(more, [1, 2]), (1, 2), strict=True):
        assert_agree(each, call(more, target=target))
        assert each.relevance["x"][:3].tobytes() == each.relevance["x"][15:18].tobytes()


def test_progress_counts_answers():
    call, told = Explainer(two_inputs("batch"), chunk=1), []
    call.each(PAIR, [1, 0, 1], progress=lambda *now: told.append(now))
    assert told[-1] == (15, 15)
    assert [of for _, of in told] == [15] * len(told)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize("ledger", ["total", None])
def test_books_at_every_level(ledger):
    call = Explainer(two_inputs("batch"), mode="lrp-epsilon", ledger=ledger)
    for found, target in zip(call.each(PAIR, [1, [1] * 5]), (1, [1] * 5), strict=True):
        assert_agree(found, call(PAIR, target=target))
        assert (found.ledger is None) == (ledger is None)


def test_an_interrupt_ends_it_between_two_walks():
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    call = made(open_batch)
    with pytest.raises(KeyboardInterrupt):
        call.each(PAIR, [1, None, 1], progress=interrupt)
    assert len(call.each(PAIR, [1, None, 1])) == 3


def test_long_functions_are_compiled_in_pieces(monkeypatch):
    expected = made(open_batch).each(PAIR, [1, None])
    for name, value in {"WHOLE": 100, "SHORTEST": 20, "LONGEST": 60}.items():
        monkeypatch.setattr(pieces, name, value)
    for found, each in zip(Explainer(open_batch()).each(PAIR, [1, None]), expected, strict=True):
        assert_agree(found, each)


def test_a_function_that_fails_is_named_by_its_question():
    with pytest.raises(SettingError, match=r"^question 1: start= fails on outputs"):
        made(convolutional, mode="lrp-epsilon").each(images(), starts=[lambda y: y, lambda y: y[7]])


def test_numbers_beyond_the_range_name_the_question():
    call = Explainer(convolutional(), mode="lrp-epsilon")
    huge = np.full((3, 5), 3e38, np.float32)
    with pytest.raises(NumericsError, match=r"^question 1: "):
        call.each(images(), starts=[random(3, 5), huge])
    assert len(call.each(images(), starts=[random(3, 5)])) == 1


def test_explain_each_is_each():
    found = explain_each(convolutional(), images(), [1, 2], mode="lrp-epsilon", position=None)
    assert len(found) == 2
    for each, target in zip(found, (1, 2), strict=True):
        assert_agree(each, explain(convolutional(), images(), mode="lrp-epsilon", target=target))


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"targets": [1, 2, 9]}, "^question 2: target 9 is out of range"),
        ({"targets": [1, 2], "against": [0, 2]}, "^question 1: against=2 is the target itself"),
        ({"targets": [1, 2], "positions": "all"}, "has no positions"),
        ({"targets": [1, 2], "positions": [0, 0, 0]}, "as many of each; found 2 targets, 3 positions"),
        ({"targets": []}, "as many of each; found 0 targets"),
        ({"targets": [1], "conditions": [{"nope": [1]}]}, "^question 0: conditions: no relevance passes"),
        ({"targets": [1, 1], "conditions": [{"hidden": [1]}, {"hidden": [9]}]}, "^question 1: conditions"),
        ({"starts": [np.ones((3, 5)), np.ones((3, 4))]}, "^question 1: start must be a finite array"),
        ({"starts": [np.ones((3, 5))], "start": np.ones((3, 5))}, "leave one of them out"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_mistakes_are_named_before_anything_is_compiled(asked, match, monkeypatch):
    monkeypatch.setattr("backtrace_jax.engine.pieces.compiled", None)
    with pytest.raises(SettingError, match=match) as error:
        explainer().each(images(), **asked)
    assert len(str(error.value)) < 300
