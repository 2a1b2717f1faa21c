"""The command line: exit codes, what goes to which stream, and the mistakes that users make."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from backtrace_jax import MODES, Explanation, demo, explain, mode
from backtrace_jax.cli import main as cli
from backtrace_jax.cli import streams
from tests import handmade

CASES = Path(__file__).parents[1] / "cases"

DIGITS = demo.sample("digits")
TUMOURS = demo.sample("breast_cancer")


@pytest.fixture
def run(capsys):
    """Run the command line in this process: arguments -> (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def digits(tmp_path) -> Path:
    """Three pictures of digits in a file."""
    path = tmp_path / "digits.npy"
    np.save(path, DIGITS.inputs[:3])
    return path


def assert_one_error(result: tuple[int, str, str], *words: str) -> None:
    """One line on stderr, nothing on stdout, exit code 1."""
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def write_model(path: Path, *nodes: onnx.NodeProto, **options) -> Path:
    """A model of a few nodes in a file."""
    onnx.save(handmade.model(*nodes, **options), path)
    return path


# The commands


def test_explain_prints_prediction_inputs_and_ledger(run, digits):
    code, out, err = run("explain", DIGITS.model, digits, "--example", 1, "--top", 3)
    assert (code, err) == (0, "")
    assert "examples     3, largest ledger error" in out
    assert f"prediction   class {DIGITS.labels[1]}" in out
    assert out.count("  image[0, ") == 3
    assert "stabiliser" in out


def test_explain_saves_and_draws(run, digits, tmp_path):
    code, out, _ = run("explain", DIGITS.model, digits, "--out", tmp_path / "e.npz", "--plot", tmp_path / "e.png")
    assert code == 0
    assert str(tmp_path / "e.npz") in out
    loaded = Explanation.load(tmp_path / "e.npz")
    assert loaded.relevance["image"].shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(loaded.target, DIGITS.labels[:3])
    assert (loaded.ledger.error < 1e-5).all()
    assert set(loaded.ledger.by_node)
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.width > 600


def test_settings_reach_the_explanation(run, digits, tmp_path):
    path = tmp_path / "e.npz"
    code, out, _ = run(
        *("explain", DIGITS.model, digits, "--target", "3,1,4", "--scaler", "2", "--dtype", "float64"),
        *("--task", "multi-class classification", "--output", "logits", "--wrt", "image", "--chunk", "8"),
        *("--layers", "all", "--out", path),
    )
    assert code == 0
    loaded = Explanation.load(path)
    np.testing.assert_array_equal(loaded.target, [3, 1, 4])
    np.testing.assert_allclose(loaded.ledger.start, 2.0)
    assert loaded.relevance["image"].dtype == np.float64
    assert loaded.fingerprint["chunk"] == 8
    assert loaded.layers
    assert "layers" in out


@pytest.mark.parametrize(
    ("name", "words", "absent"),
    [
        ("contrastive", ["largest ledger error", "against", "difference", "stabiliser"], ["completeness"]),
        ("gradient", ["no ledger"], ["stabiliser", "error"]),
        ("integrated-gradients", ["largest completeness error", "of the answer's change"], ["stabiliser", "ledger"]),
    ],
)
def test_reports_of_other_modes(run, digits, tmp_path, name, words, absent):
    code, out, err = run("explain", DIGITS.model, digits, "--mode", name, "--out", tmp_path / "e.npz")
    assert (code, err) == (0, "")
    assert all(word in out for word in words)
    assert not any(word in out for word in absent)
    assert Explanation.load(tmp_path / "e.npz").fingerprint["mode"] == name


def test_options_and_rivals_reach_the_explanation(run, digits, tmp_path):
    options = ("--mode", "lrp-gamma", "--option", "gamma=0.5", "--target", "3", "--against", "5,2,8")
    assert run("explain", DIGITS.model, digits, *options, "--out", tmp_path / "e.npz")[0] == 0
    expected = explain(DIGITS.model, DIGITS.inputs[:3], mode=mode("lrp-gamma", gamma=0.5), target=3, against=[5, 2, 8])
    loaded = Explanation.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(loaded.relevance["image"], expected.relevance["image"])
    assert loaded.fingerprint["mode_options"] == {
        "gamma": 0.5,
        "epsilon": 1e-9,
        "bias": "keep",
        "norm": "linear",
    }


def test_positions_count_from_both_ends(run, tmp_path):
    model = write_model(tmp_path / "text.onnx", helper.make_node("Relu", ["x"], ["y"]), shape=("batch", 4, 6))
    np.save(tmp_path / "x.npy", np.ones((1, 4, 6), np.float32))
    asked = ("--task=next-token", "--class-axis=-1", "--target=5", "--position")
    for place in (2, -2):
        code, out, _ = run("explain", model, tmp_path / "x.npy", *asked, place)
        assert code == 0
        assert "explained    y[2, 5] = 1" in out


BASELINE = DIGITS.inputs[5:9]


@pytest.mark.parametrize(
    ("file", "content", "meaning"),
    [
        ("zero", None, "zero"),
        ("one.npy", BASELINE[0], BASELINE[0]),
        ("several.npy", BASELINE, BASELINE),
        ("named.npz", {"image": BASELINE}, BASELINE),
        ("unnamed.npz", BASELINE, BASELINE),
    ],
)
def test_baselines_come_from_files(run, digits, tmp_path, monkeypatch, file, content, meaning):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        named = content if isinstance(content, dict) else {"arr_0": content}
        np.savez(file, **named) if file.endswith("z") else np.save(file, content)
    code, _, err = run("explain", DIGITS.model, digits, "--mode", "deeplift", "--baseline", file, "--out", "e.npz")
    assert (code, err) == (0, "")
    expected = explain(DIGITS.model, DIGITS.inputs[:3], mode="deeplift", baseline=meaning)
    np.testing.assert_array_equal(Explanation.load("e.npz").relevance["image"], expected.relevance["image"])


def test_a_table_is_a_baseline_of_its_mean(run, tmp_path):
    np.savetxt(tmp_path / "base.csv", TUMOURS.inputs[2:9], delimiter=",")
    np.save(tmp_path / "x.npy", TUMOURS.inputs[:2])
    options = ("--mode", "deeplift", "--baseline", tmp_path / "base.csv", "--out", tmp_path / "e.npz")
    assert run("explain", TUMOURS.model, tmp_path / "x.npy", *options)[0] == 0
    mean = TUMOURS.inputs[2:9].mean(axis=0, dtype=np.float64)
    expected = explain(TUMOURS.model, TUMOURS.inputs[:2], mode="deeplift", baseline=mean).relevance["features"]
    np.testing.assert_allclose(Explanation.load(tmp_path / "e.npz").relevance["features"], expected, atol=1e-6)


def test_the_scaler_none_hands_out_the_score(run, digits, tmp_path):
    assert run("explain", DIGITS.model, digits, "--scaler", "none", "--out", tmp_path / "e.npz")[0] == 0
    loaded = Explanation.load(tmp_path / "e.npz")
    np.testing.assert_allclose(loaded.ledger.start, loaded.outputs["logits"].max(axis=1), rtol=1e-5)


def test_one_sigmoid_answers_for_two_classes(run, tmp_path):
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=1), helper.make_node("Sigmoid", ["s"], ["y"])]
    model = write_model(tmp_path / "yes.onnx", *nodes, shape=(1, 3))
    np.save(tmp_path / "x.npy", np.array([[1, 2, 3], [-1, -2, -3]], np.float32))
    for example, answer in enumerate(("y[0] (class 1) = 0.9975", "y[0] (class 1) = 0.002473")):
        code, out, _ = run("explain", model, tmp_path / "x.npy", "--example", example)
        assert code == 0
        assert answer in out
        assert " for class 1\n" in out
    out = run("explain", model, tmp_path / "x.npy", "--target", 0)[1]
    assert "score 0.9975 for class 1\nexplained    y[0] (class 0)\n" in out


def test_check_says_that_a_model_can_be_explained(run):
    code, out, err = run("check", DIGITS.model)
    assert (code, err) == (0, "")
    assert "Conv" in out


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("lrp-gamma", ["gamma=0.5", "epsilon=1e-3"], "gamma(gamma=0.5, epsilon=0.001, bias=keep)"),
        ("lrp-epsilon", ["bias = ignore"], "epsilon(epsilon=0.0, bias=ignore)"),
        ("lrp-epsilon-gamma-box", ["low=-1,-2", "high=3"], "z-box(low=(-1, -2), high=3,"),
        ("lrp-flat", ["epsilon=1.0", "epsilon=2.0"], "flat(epsilon=2.0)"),
    ],
)
def test_options_reach_the_rules(run, name, options, rule):
    code, out, err = run("check", DIGITS.model, "--mode", name, *(f"--option={option}" for option in options))
    assert (code, err) == (0, "")
    assert rule in out


def test_check_fails_on_what_is_missing(run, tmp_path):
    model = write_model(tmp_path / "odd.onnx", helper.make_node("Wibble", ["x"], ["y"], domain="com.example"))
    code, out, err = run("check", model)
    assert (code, err) == (1, "")
    assert "Wibble" in out


def test_modes_lists_every_mode_with_its_options(run):
    code, out, err = run("modes")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 120
    blocks = dict(re.findall(r"^(\S+) {2,}(.*(?:\n {2,}.*)*)", out, re.MULTILINE))
    assert list(blocks) == list(MODES)
    for name, entry in MODES.items():
        words = " ".join(blocks[name].split())
        assert words.startswith(f"{entry.summary} {entry.reference}")
        assert all(re.search(rf"\b{option}\b", words) for option in entry.defaults)
    assert blocks["integrated-gradients"].endswith("options: steps=64")
    assert "low (must be given)" in blocks["lrp-epsilon-gamma-box"]


def test_show_prints_the_graph(run):
    code, out, err = run("show", TUMOURS.model)
    assert (code, err) == (0, "")
    assert "lambda" in out
    assert "features" in out


def test_demo_writes_its_pictures(run, tmp_path):
    code, out, _ = run("demo", "--out", tmp_path / "new" / "folder")
    assert code == 0
    assert "benign" in out
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["breast_cancer.png", "digits.png"]


def test_version_and_help(run):
    assert run("--version")[:2] == (0, "backtrace-jax 0.1.0\n")
    code, out, _ = run("explain", "--help")
    assert code == 0
    assert "--target" in out


# Kinds of input files


def test_npz_by_name_ignores_extras_aloud(run):
    code, out, err = run("explain", DIGITS.model, DIGITS.model.with_suffix(".npz"))
    assert code == 0
    assert "examples     16" in out
    assert err.startswith("note: ")
    assert "label" in err
    assert "class_names" in err


def test_npz_without_names_follows_the_models_order(run, tmp_path):
    np.savez(tmp_path / "x.npz", DIGITS.inputs[:2])
    assert run("explain", DIGITS.model, tmp_path / "x.npz")[0] == 0


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("header", [True, False])
def test_tables_with_and_without_header(run, tmp_path, header, suffix):
    path, mark = tmp_path / f"rows{suffix}", "," if suffix == ".csv" else "\t"
    quoted = [f'"{name}"' for name in TUMOURS.feature_names]
    lines = [quoted] if header else []
    lines += [[repr(float(value)) for value in row] for row in TUMOURS.inputs[:2]]
    path.write_text("\ufeff" + "\n".join(map(mark.join, lines)) + "\n\n", encoding="utf-8")
    code, out, _ = run("explain", TUMOURS.model, path)
    assert code == 0
    assert "examples     2," in out
    assert ("radius error" in out) == header
    assert ("features[" in out) != header


def test_pictures_are_explained(run, tmp_path):
    picture = Image.fromarray((DIGITS.inputs[0, 0] * 255).astype(np.uint8))
    picture.save(tmp_path / "digit.png")
    code, out, _ = run("explain", DIGITS.model, tmp_path / "digit.png")
    assert code == 0
    assert f"prediction   class {DIGITS.labels[0]}" in out


def test_pictures_are_resized_only_when_asked(run, tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (30, 20), 128).save(path)
    assert_one_error(run("explain", DIGITS.model, path), "30 x 20", "8 x 8", "--resize")
    assert run("explain", DIGITS.model, path, "--resize")[0] == 0


# Mistakes


def test_missing_and_broken_models(run, digits, tmp_path):
    assert_one_error(run("explain", tmp_path / "no.onnx", digits), "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"this is not a model")
    for command in (("explain", tmp_path / "bad.onnx", digits), ("show", tmp_path / "bad.onnx")):
        assert_one_error(run(*command), "bad.onnx")
    assert_one_error(run("explain", digits, digits), "digits.npy")


@pytest.mark.parametrize("name", ["no.npy", "inputs.parquet", "."])
def test_missing_and_unknown_input_files(run, tmp_path, name):
    (tmp_path / "inputs.parquet").write_bytes(b"PAR1")
    assert_one_error(run("explain", DIGITS.model, tmp_path / name), str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".csv"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfegarbage", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x89PNG\r\n\x1a\n"]
)
def test_broken_input_files_are_named(run, tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    assert_one_error(run("explain", DIGITS.model, path), str(path))


def test_pickled_arrays_are_refused(run, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}, []], object), allow_pickle=True)
    assert_one_error(run("explain", DIGITS.model, tmp_path / "x.npy"), "x.npy")


def test_an_archive_without_the_input_says_what_it_holds(run, tmp_path):
    np.savez(tmp_path / "x.npz", pixels=DIGITS.inputs)
    assert_one_error(run("explain", DIGITS.model, tmp_path / "x.npz"), "pixels", "image")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n1,2\n3\n", ["row 3", "1 cells", "2"]),
        ("a,b\n1,2\n3,x\n", ["row 3, column 2", "'x'"]),
        ("1,2\n3,\n", ["row 2, column 2", "an empty cell"]),
        ("1,NA\n3,4\n", ["row 1, column 2", "'NA'"]),
        ("1;2\n3;4\n", ["row 2, column 1", "'3;4'"]),
        ('"open,2\n', ["rows.csv"]),
    ],
)
def test_mistakes_in_tables_are_located(run, tmp_path, text, words):
    (tmp_path / "rows.csv").write_text(text)
    assert_one_error(run("explain", TUMOURS.model, tmp_path / "rows.csv"), "rows.csv", *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "no-such-mode"], ["no-such-mode"]),
        (["--target", "10"], ["10"]),
        (["--target", "1,2"], ["target"]),
        (["--output", "nothing"], ["nothing", "logits"]),
        (["--wrt", "nothing"], ["nothing"]),
        (["--chunk", "3"], ["chunk"]),
        (["--dtype", "int8"], ["int8"]),
        (["--example", "3"], ["no example 3", "hold 3"]),
        (["--option", "gamma=1"], ["'default'", "gamma"]),
        (["--mode", "smoothgrad", "--option", "samples=much"], ["samples", "'much'"]),
        (["--mode", "lrp-epsilon-gamma-box", "--option", "low=0"], ["high"]),
        (["--against", "10"], ["against 10"]),
        (["--position", "0"], ["position", "classification"]),
        (["--baseline", "zero"], ["'default'", "baseline"]),
        (["--mode", "deeplift", "--baseline", "no.npy"], ["no.npy"]),
    ],
)
def test_wrong_settings(run, digits, options, words):
    assert_one_error(run("explain", DIGITS.model, digits, *options), *words)


def test_inputs_without_a_batch_axis(run, tmp_path):
    np.save(tmp_path / "one.npy", DIGITS.inputs[0])
    assert_one_error(run("explain", DIGITS.model, tmp_path / "one.npy"), "image", "batch")


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_results_that_cannot_be_written_are_refused_before_the_work(run, digits, tmp_path, option, monkeypatch):
    monkeypatch.setattr("backtrace_jax.explain", lambda *_, **__: pytest.fail("explained nevertheless"))
    assert_one_error(run("explain", DIGITS.model, digits, option, tmp_path / "no" / "file.png"), "no folder")


def test_unknown_picture_formats_are_refused_before_the_work(run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("backtrace_jax.explain", lambda *_, **__: pytest.fail("explained nevertheless"))
    assert_one_error(run("explain", DIGITS.model, digits, "--plot", tmp_path / "file.docx"), ".docx", "png")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explain"],
        ["explain", "model.onnx"],
        ["frobnicate"],
        ["explain", "m", "x", "--target", "three"],
        ["explain", "m", "x", "--scaler", "much"],
        ["explain", "m", "x", "--example", "last"],
        ["explain", "m", "x", "--against", "three"],
        ["explain", "m", "x", "--position", ","],
        ["explain", "m", "x", "--option", "gamma"],
        ["check", "m", "--option", "=1"],
        ["check", "m", "--batch-axis", "first"],
        ["show", "m", "--batch-axis", "=1"],
        ["check"],
    ],
)
def test_wrong_command_lines_exit_with_two(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "usage:" in err
    assert err.count("\n") == 1


def test_names_cannot_steer_the_terminal(run, tmp_path):
    evil = "x\x1b[2J\u202e"
    model = write_model(tmp_path / "evil.onnx", helper.make_node("Relu", [evil], ["y"]), name=evil)
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    code, out, err = run("explain", model, tmp_path / "x.npy")
    assert code == 0
    assert "\\x1b[2J\\u202e" in out
    assert "\x1b" not in out + err


# As a process


def as_process(*arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-m", "backtrace_jax.cli", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, **streams)


def test_a_closed_pipe_is_no_error():
    with as_process("show", DIGITS.model) as process:
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert process.stderr.read() == ""


def test_terminals_that_know_ascii_only():
    with as_process("modes", env={**os.environ, "PYTHONIOENCODING": "ascii"}) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert r"And\xe9ol" in out


def test_progress_stays_off_streams_that_are_no_terminal(digits):
    with as_process("explain", DIGITS.model, digits) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "prediction" in out


def test_progress_shows_on_a_terminal_and_clears_itself(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with streams.progress() as advance:
        advance(1, 10)
        assert terminal.getvalue() == ""  # short work shows no bar
        time.sleep(1.05)
        advance(6, 10)
    assert "explaining:  60%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_an_interruption_ends_quietly(run, digits, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("backtrace_jax.explain", interrupt)
    assert run("explain", DIGITS.model, digits) == (130, "", "interrupted\n")


@pytest.fixture(scope="module")
def mixing(tmp_path_factory):
    """A folder with rows, and with rows beside what they share."""
    folder = tmp_path_factory.mktemp("batch")
    np.save(folder / "x.npy", np.arange(12, dtype=np.float32).reshape(3, 4) % 5)
    np.savez(folder / "shared.npz", x=np.ones((3, 4), np.float32), s=np.float32(2))
    return folder


def test_rows_that_are_compared_with_each_other(run, mixing):
    model, x = CASES / "minus_mean_of_rows.onnx", mixing / "x.npy"
    assert_one_error(run("explain", model, x), "node 'm' (ai.onnx.ReduceMean) mixes", "batch_axis=None")
    assert_one_error(run("show", model, x), "node 'm'")
    code, out, _ = run("check", model, x)
    assert (code, "missing: node 'm' (ai.onnx.ReduceMean) mixes" in out) == (1, True)
    code, out, _ = run("check", model)
    assert (code, "note: one example at a time: node 'm'" in out) == (0, True)
    for command in ("check", "show"):
        code, out, _ = run(command, model, x, "--batch-axis", "none")
        assert (code, "mixes" in out) == (0, False)
    assert run("explain", model, x, "--batch-axis", "none", "--target", "(0, 1)")[0] == 0


def test_an_input_that_all_examples_share(run, mixing):
    model, inputs = CASES / "shared_scalar.onnx", mixing / "shared.npz"
    assert_one_error(run("explain", model, inputs), "'s' is a single number", "batch_axis={'s': None}")
    assert run("check", model, inputs, "--batch-axis", "s=none")[0] == 0
    assert run("explain", model, inputs, "--batch-axis", "s=none", "--example", "2")[0] == 0


def test_states_whose_batch_is_another_axis(run, tmp_path):
    model = CASES / "squeeze_all_state.onnx"
    np.savez(tmp_path / "in.npz", x=np.ones((3, 1, 5, 4), np.float32), h=np.ones((2, 3, 3), np.float32))
    assert_one_error(
        run("explain", model, tmp_path / "in.npz"), "batch size", "'x': 3", "'h': 2", "batch_axis={'h': 1}"
    )
    assert run("check", model, tmp_path / "in.npz", "--batch-axis", "h=1")[0] == 0
    code, out, _ = run("show", model, tmp_path / "in.npz", "--batch-axis", "h=1")
    assert (code, "[1,2,3]" in out.replace(" ", "")) == (0, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system without /dev/full")
@pytest.mark.parametrize("arguments", [["modes"], ["--help"], ["explain", "--help"], ["--version"]])
def test_output_that_cannot_be_written(arguments):
    with open("/dev/full", "w") as full, as_process(*arguments, stdout=full) as process:
        assert process.wait(timeout=120) == 1
        assert process.stderr.read() == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 1), (">&- 2>&-", 1)])
def test_closed_streams(closed, code, tmp_path):
    arguments = "modes" if code == 0 else f"check {tmp_path}/missing.onnx"
    line = f"{sys.executable} -m backtrace_jax.cli {arguments} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
