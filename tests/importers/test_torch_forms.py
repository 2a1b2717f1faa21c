"""What torch's exporters lack or get wrong has a form that they know, with the same values and the same gradient."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, rnn

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import ImportMismatchError, InputError, MixedExamplesError, ModelError, UnsupportedError
from backtrace_jax.importers import read
from backtrace_jax.importers.pytorch import exporters
from backtrace_jax.importers.pytorch.functions import Spelled

CLOSE = 1e-5
SIZES = st.integers(1, 4)


def _values(*shape):
    return torch.tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def _assert_spelled(function, *tensors, **settings):
    """The spelling gives the values and the gradient that torch gives."""
    results = []
    for spelled in (False, True):
        given = [each.clone().requires_grad_(each.is_floating_point()) for each in tensors]
        if spelled:
            with Spelled():
                found = function(*given, **settings)
        else:
            found = function(*given, **settings)
        weights = torch.arange(1.0, 1.0 + found.numel()).reshape(found.shape)
        floats = [each for each in given if each.requires_grad]
        results.append([found, *torch.autograd.grad((found * weights).sum(), floats, allow_unused=True)])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(other, one, rtol=CLOSE, atol=CLOSE)


@hypothesis.given(SIZES, SIZES, SIZES, st.booleans(), st.integers(1, 9), st.sampled_from([2, 3]))
def test_average_pooling_with_a_divisor_of_its_own(kernel, stride, padding, ceil, divisor, rank):
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[rank]
    settings = {"padding": padding % (kernel // 2 + 1), "ceil_mode": ceil, "divisor_override": divisor}
    _assert_spelled(pool, _values(2, 3, *range(5, 5 + rank)), kernel_size=kernel, stride=stride, **settings)


@hypothesis.given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 3))
def test_adaptive_maxima_of_any_size(lengths, size):
    pools = [functional.adaptive_max_pool1d, functional.adaptive_max_pool2d, functional.adaptive_max_pool3d]
    _assert_spelled(pools[len(lengths) - 1], _values(2, 2, *lengths), output_size=(size,) * len(lengths))


@hypothesis.given(st.integers(1, 9), st.integers(-2, 1))
def test_running_products(length, axis):
    _assert_spelled(torch.cumprod, _values(length, length + 1), dim=axis)


@hypothesis.given(st.integers(0, 2**12 - 1), st.booleans())
def test_masked_scatter(bits, broadcast):
    mask = torch.tensor([bool(bits >> i & 1) for i in range(12)]).reshape(3, 4)
    _assert_spelled(torch.Tensor.masked_scatter, _values(3, 4), mask[:1] if broadcast else mask, _values(13))


def test_calls_without_a_spelling_are_left_alone():
    image = _values(1, 1, 4, 4)
    with Spelled():
        torch.testing.assert_close(
            functional.avg_pool2d(image, 2), image.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
        )
        assert len(functional.adaptive_max_pool2d(image, 3, return_indices=True)) == 2


def _assert_own(module, x, *others, target=1, **settings):
    """Outputs and gradient of an explanation are the module's own."""
    found = explain(module, (x, *others), mode="gradient", target=target, **settings)
    given = x.clone().requires_grad_(True)
    answer = module(given, *others)
    np.testing.assert_allclose(found.outputs[found.output], answer.detach(), rtol=CLOSE, atol=CLOSE)
    (gradient,) = torch.autograd.grad(answer[:, target].sum(), given)
    np.testing.assert_allclose(next(iter(found.relevance.values())), gradient, rtol=CLOSE, atol=CLOSE)
    return found


class AllOfThem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.largest = nn.AvgPool2d(3, 2, 1, True, divisor_override=4), nn.AdaptiveMaxPool2d((3, 2))

    def forward(self, x):
        return self.largest(self.pool(x)).flatten(1).cumprod(-1)


class Scattered(nn.Module):
    """Takes entries of the source in the order in which the mask is true: those of the first row for the second one."""

    def forward(self, x):
        return x.masked_scatter(torch.tensor([True, False] * 3).expand_as(x), x.tanh())


def test_such_functions_are_explained_through_their_exports():
    found = _assert_own(AllOfThem(), 2 * _values(2, 1, 10, 7))
    assert found.fingerprint["exporter"] == "dynamo"


def test_a_masked_scatter_runs_over_the_whole_batch():
    module, x = Scattered(), _values(2, 6)
    with pytest.raises(MixedExamplesError, match="batch_axis=None"):
        explain(module, x, mode="gradient", target=0)
    found = explain(module, x, mode="gradient", scaler=None, target=(1, 0), batch_axis=None)
    own = x.clone().requires_grad_(True)
    gradient = torch.autograd.grad(module(own)[1, 0], own)[0]
    assert gradient[0].any(), "the second row has an entry of the first"
    np.testing.assert_allclose(found.relevance["x"][0], gradient, rtol=1e-5, atol=1e-6)


def test_parametrized_weights_are_those_they_are_made_to_be():
    torch.manual_seed(0)
    module = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 3)),
    ).eval()
    kinds, names = [type(each) for each in module.modules()], dict(module.named_parameters())
    _assert_own(module, _values(3, 4))
    assert kinds == [type(each) for each in module.modules()]
    assert names.keys() == dict(module.named_parameters()).keys()
    assert all(value is names[name] for name, value in module.named_parameters())
    proto = read(module, _values(3, 4)).proto
    assert proto is not None
    assert "2.weight" in {tensor.name for tensor in proto.graph.initializer}


class Packed(nn.Module):
    """A recurrence over sequences of unequal lengths."""

    def __init__(self, kind: type[nn.Module], **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = kind(3, 4, batch_first=True, **settings)

    def forward(self, x, lengths):
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, state = self.cell(packed)
        output = rnn.pad_packed_sequence(output, batch_first=True)[0]
        return output.sum(1) + (state[0] if isinstance(state, tuple) else state)[-1].repeat(1, output.shape[-1] // 4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_of_any_lengths(kind):
    module, x = Packed(kind, bidirectional=kind is nn.LSTM), _values(3, 5, 3)
    for lengths in ([2, 5, 3], [5, 1, 4]):
        found = _assert_own(module, x, torch.tensor(lengths))
        ended = np.arange(5) >= np.array(lengths)[:, None]
        assert (found.relevance["x"][ended] == 0).all()


class Ended(nn.Module):
    """Reads the last states of a recurrence only, whose lengths are told by a mask or as they are."""

    def __init__(self, kind: type[nn.Module], **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.masked = kind(3, 4, batch_first=True, **settings), "num_layers" in settings

    def forward(self, x, lengths):
        lengths = lengths.sum(1) if self.masked else lengths
        state = self.cell(rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False))[1]
        return (state[0] if isinstance(state, tuple) else state).movedim(0, 1).flatten(1)


@pytest.mark.parametrize(("kind", "settings"), [(nn.LSTM, {"bidirectional": True}), (nn.GRU, {"num_layers": 2})])
def test_last_states_of_packed_sequences(kind, settings):
    """One import takes any lengths, a batch of any size; gradients are autograd's, and nothing reaches padding."""
    module, x, lengths = Ended(kind, **settings), _values(3, 5, 3), torch.tensor([2, 5, 3])
    given = (torch.arange(5) < lengths[:, None]).long() if module.masked else lengths
    explainer = Explainer(module, mode="gradient", scaler=None, example=(x, given))
    for rows in ([0, 1, 2], [2], [1, 1, 0, 2]):
        found, own = explainer((x[rows], given[rows]), target=1), x[rows].clone().requires_grad_()
        answer = module(own, given[rows])
        np.testing.assert_allclose(found.outputs["output"], answer.detach(), rtol=CLOSE, atol=CLOSE)
        gradient = torch.autograd.grad(answer[:, 1].sum(), own)[0]
        np.testing.assert_allclose(found.relevance["x"], gradient, rtol=CLOSE, atol=CLOSE)
        assert (found.relevance["x"][torch.arange(5) >= lengths[rows][:, None]] == 0).all()


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon"])
def test_a_packed_sequence_is_explained_as_it_is_alone(mode):
    module, x, lengths = Ended(nn.LSTM), _values(2, 4, 3), torch.tensor([3, 4])
    together = explain(module, (x, lengths), mode=mode, target=1, dtype="float64").relevance["x"]
    alone = explain(module, (x[:1, :3], lengths[:1]), mode=mode, target=1, dtype="float64").relevance["x"]
    np.testing.assert_allclose(together[:1, :3], alone, rtol=1e-9)
    assert (together[0, 3:] == 0).all()


class CutShort(nn.Module):
    """How many positions it maximises over depends on the longest example of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, lengths):
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.cell(packed)[0], batch_first=True)[0]


def test_positions_that_depend_on_the_longest_example_are_refused_with_the_way_out():
    with pytest.raises(ImportMismatchError, match=r"total_length=") as error:
        explain(CutShort(), (_values(2, 4, 3), torch.tensor([3, 2])))
    assert len(str(error.value)) <= 300


class Lengths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.labels = nn.Linear(4, 3), nn.Embedding(5, 4)

    def forward(self, x, lengths, label, unused):
        kept = (torch.arange(4) < lengths[:, None]).float()
        return self.linear(x * kept + self.labels(label))


def test_one_number_per_example_and_inputs_that_nothing_depends_on():
    module, numbers = Lengths(), torch.tensor([1, 4, 2])
    found = _assert_own(module, _values(3, 4), numbers, numbers.flip(0), _values(3, 2))
    assert found.inputs["unused"].shape == (3, 2)
    tables = explain(module, (_values(3, 4), numbers, numbers.flip(0), _values(3, 2))).relevance
    assert tables["label"].shape == (3,)
    assert (tables["label"] != 0).all()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_on_the_left_is_nobodys_answer(kind):
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "vocab_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    }
    if kind == "llama":
        config = transformers.LlamaConfig(hidden_size=8, intermediate_size=8, num_key_value_heads=1, **small)
        module = transformers.LlamaForCausalLM(config).eval()
    else:
        module = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, **small)).eval()
    tokens, mask = torch.tensor([[3, 4, 5, 6], [0, 0, 7, 8]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    settings = vars(module.config).copy()
    found = explain(module, {"input_ids": tokens, "attention_mask": mask}, task="next-token")
    with torch.no_grad():
        expected = module(input_ids=tokens, attention_mask=mask).logits.numpy()
    real = mask.numpy() == 1
    np.testing.assert_allclose(found.outputs["logits"][real], expected[real], rtol=1e-4, atol=CLOSE)
    assert (found.relevance["input_ids"][1, :2] == 0).all()
    assert vars(module.config) == settings


class Trunk(nn.Module):
    """Half precision inside, single precision outside."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(each for _ in range(6) for each in (nn.Linear(32, 32), nn.GELU()))).to(dtype)

    def forward(self, x):
        return self.layers(x).float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_trunk_under_single_logits_takes_arrays_of_any_floats(dtype):
    module, x = Trunk(dtype), _values(3, 32)
    explainer = Explainer(module, example=x.to(dtype), mode="gradient")
    expected, once = module(x.to(dtype)).detach().numpy(), explainer(x.to(dtype))
    np.testing.assert_allclose(once.outputs["output"], expected, atol=0.1 * np.abs(expected).max())
    for array in (x.numpy(), x.double().numpy()):
        np.testing.assert_array_equal(explainer(array).relevance["x"], once.relevance["x"])


class _Last(nn.Module):
    """A recurrence over the columns of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1]


def test_layers_in_bfloat16():
    """ONNX has them in this type only of late. The walk rounds nothing to it, a recurrence's two biases included: their
    error would add up over the steps. The derivative is torch's, of the same numbers in double precision."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.MaxPool2d(2, 1), _Last()).to(torch.bfloat16).eval()
    x, wide = _values(2, 1, 7, 7).to(torch.bfloat16), copy.deepcopy(module).double()
    found = explain(module, x, mode="gradient", target=1)
    leaf = x.double().requires_grad_()
    answer = wide(leaf)
    (expected,) = torch.autograd.grad(answer[:, 1].sum(), leaf)
    assert found.outputs[found.output].dtype == np.float32
    np.testing.assert_allclose(found.outputs[found.output], answer.detach().numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(*found.relevance.values(), expected.numpy(), rtol=0, atol=1e-6 * expected.abs().max())


def _bert():
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
    ).eval()


class Magnified(nn.Module):
    """Has no floats of its own; single precision would lose what it magnifies."""

    def forward(self, x):
        return (x - 1) * 1e9


def test_a_module_without_floats_of_its_own_computes_in_the_type_given():
    x = np.array([[1 + 1e-9, 1.5]])
    found = explain(Magnified(), x, mode="gradient", scaler=None, target=0, dtype="float64")
    np.testing.assert_allclose(found.outputs["output"], (x - 1) * 1e9, rtol=1e-6)  # 0 from rounded inputs
    np.testing.assert_allclose(found.relevance["x"], [[1e9, 0]])


def test_a_transformer_takes_any_length_whatever_it_was_traced_with():
    module, tokens = _bert(), torch.arange(1, 13)[None].repeat(2, 1)
    explainer = Explainer(module, example=tokens, mode="gradient")
    for length in (12, 7):
        found = explainer(tokens[:, :length])
        np.testing.assert_allclose(found.outputs["logits"], module(tokens[:, :length]).logits.detach(), atol=CLOSE)


def test_a_mask_of_the_wrong_shape_is_said_in_the_modules_own_words():
    inputs = {"input_ids": torch.ones(2, 6, dtype=torch.int64), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    with pytest.raises(InputError, match=r"cannot be called .*mask int64 \[2, 5\].*size of tensor a \(6\) must match"):
        explain(_bert(), inputs)


IMAGE = np.random.default_rng(0).uniform(size=(2, 6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["good", "bad"], "tokenize first: tokenizer"),
        ("good", "tokenize first: tokenizer"),
        ({"input": np.array(["good"])}, "tokenize first: tokenizer"),
        ([[1.0, 2.0], [1.0]], "unequal length; pad them"),
        ((255 * IMAGE).astype(np.uint8).transpose(0, 3, 1, 2), r"it takes input.astype\(np.float32\), scaled"),
        (IMAGE[0].transpose(2, 0, 1).copy(), r"it takes input\[None\]"),
        (IMAGE, r"it takes input.transpose\(0, 3, 1, 2\)"),
        (IMAGE[0], r"it takes input.transpose\(2, 0, 1\)\[None\]"),
    ],
)
def test_mistakes_are_told_with_the_way_out(inputs, message):
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(InputError, match=message) as caught:
        explain(module, inputs)
    assert len(str(caught.value)) <= 400


class Masked(nn.Module):
    """Takes a mask, or does without."""

    def forward(self, x, mask=None):
        return x if mask is None else x * mask


def test_a_missing_mask_is_said_to_be_missing():
    call = Explainer(Masked(), example={"x": _values(2, 3), "mask": torch.ones(2, 3)}, mode="gradient")
    with pytest.raises(InputError, match="input mask is missing, with which Masked was imported; pass it"):
        call({"x": _values(2, 3)})


def test_weights_that_are_not_loaded_are_named():
    with torch.device("meta"):
        module = nn.Linear(4, 3)
    with pytest.raises(ModelError, match="not loaded: 'weight'"):
        explain(module, _values(2, 4))


class Unknown(nn.Module):
    def forward(self, x):
        return torch.linalg.matrix_exp(x[:, :, None] * x[:, None])[:, 0]


def test_what_fails_is_said_once_and_nothing_reaches_the_terminal(capfd):
    with pytest.raises(UnsupportedError, match="matrix_exp") as caught:
        explain(Unknown(), _values(2, 3))
    assert len(str(caught.value)) <= 300
    assert str(caught.value).count("No ONNX function found") == 1
    assert capfd.readouterr() == ("", "")


def test_the_terminal_is_given_back(capfd):
    with exporters._quiet():
        print("not this")
    print("but this")
    assert capfd.readouterr().out == "but this\n"
