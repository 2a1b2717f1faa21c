"""Pictures in folders and columns: the same bytes as of the array, and one that cannot be read fails alone."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.ir.imported import InputType
from tests.sources.reading import FLOAT, PICTURE, everything, inputs, opened

COUNT = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
X = np.moveaxis(PIXELS.astype(np.float32) / 255, -1, 1)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
OPEN = [InputType("x", (None, None, None, None), FLOAT)]
datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    for n, pixels in enumerate(PIXELS):
        (tmp_path / "pictures" / "ab"[n // 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / "ab"[n // 3] / f"{n}.png")
    return tmp_path / "pictures"


def column(folder):
    return datasets.Dataset.from_dict({"image": [*map(str, sorted(folder.rglob("*.png")))]}).cast_column(
        "image", datasets.Image()
    )


KINDS = {
    "folder": lambda folder: folder,
    "list": lambda folder: sorted(folder.rglob("*.png")),
    "datasets": column,
    "iterable": lambda folder: column(folder).to_iterable_dataset(),
    "pillow": lambda folder: [{"image": Image.open(path)} for path in sorted(folder.rglob("*.png"))],
    "bytes": lambda folder: datasets.Dataset.from_dict({"x": [p.read_bytes() for p in sorted(folder.rglob("*.png"))]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_what_their_array_is(folder, kind):
    assert inputs(KINDS[kind](folder), PICTURE) == X.tobytes()
    scaled = (np.moveaxis(X, 1, -1) - np.float32(MEAN)) / np.float32(STD)
    assert inputs(KINDS[kind](folder), PICTURE, mean=MEAN, std=STD) == np.moveaxis(scaled, -1, 1).tobytes()


def test_folders_are_classes(folder):
    source = opened(folder, PICTURE, carry=("label", "path"))
    found = everything(source)
    assert found.carried["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.carried["path"].tolist()[2:4] == ["a/2.png", "b/3.png"]
    assert source.schema.identity["classes"] == ["a", "b"]


def test_what_is_done_is_recorded(folder):
    source = opened(folder, PICTURE, resize=True, mean=0.5, std=(0.2,))
    assert source.schema.identity["pictures"] == {
        "size": [5, 6],
        "resized": True,
        "mean": [0.5],
        "std": [0.2],
        "layout": "channels first",
        "channels": 3,
    }


def test_sizes_and_layouts_that_the_model_leaves_open_are_the_callers(folder):
    assert inputs(folder, OPEN) == X.tobytes()
    assert inputs(folder, OPEN, layout="channels last") == np.moveaxis(X, 1, -1).tobytes()
    assert opened(folder, OPEN, size=(4, 8)).schema.inputs == {"x": ((3, 8, 4), "float32")}
    assert opened(folder, OPEN, size=8, layout="channels last").schema.inputs == {"x": ((8, 8, 3), "float32")}
    grey = [InputType("x", (None, 6, 5, 1), FLOAT)]
    assert opened(folder, grey).read(0, 1).groups[0].inputs["x"].shape == (1, 6, 5, 1)


def test_a_picture_that_cannot_be_read_fails_alone(folder):
    (folder / "a" / "1.png").write_bytes(b"no picture")
    (folder / "b" / "4.png").write_bytes((folder / "b" / "4.png").read_bytes()[:60])
    Image.fromarray(PIXELS[5][:3]).save(folder / "b" / "5.png")
    found = everything(opened(folder, PICTURE, carry="label"))
    assert {place: reason.split("pictures/")[1][:45] for place, reason in found.failed.items()} == {
        1: "a/1.png' is not a picture in a known format, ",
        4: "b/4.png' cannot be read as a picture: " + found.failed[4].split("picture: ")[1][:7],
        5: "b/5.png' is 5 x 3 pixels, the model takes 5 x",
    }
    assert found.carried["label"].tolist() == [0, 0, 0, 1, 0, 0]
    assert found.groups[0].places.tolist() == [0, 2, 3]
    assert found.groups[0].inputs["x"].tobytes() == X[[0, 2, 3]].tobytes()
    resized = everything(opened(folder, PICTURE, resize=True))
    assert [*resized.failed] == [1, 4]


@pytest.mark.parametrize(
    ("declared", "how", "error", "said"),
    [
        (PICTURE, {"size": 8}, InputError, "size 8 x 8: the model takes x"),
        (PICTURE, {"mean": (0.5, 0.5)}, InputError, r"mean= \(--mean\): pictures have 3 channels, found 2 numbers"),
        (PICTURE, {"std": 0}, InputError, "holds 0"),
        (PICTURE, {"std": "x"}, SettingError, "std is a number"),
        (OPEN, {"size": (1, 2, 3)}, SettingError, "size is pixels"),
        (PICTURE, {"layout": "channels last"}, SettingError, "the model says itself"),
        ([InputType("x", (None, 30), FLOAT)], {}, InputError, "pictures have 4 axes"),
        ([InputType("x", (None, 7, 6, 5), FLOAT)], {}, InputError, "1 or 3 channels"),
        (PICTURE, {"tokenizer": "x"}, SettingError, "is for texts"),
    ],
)
def test_what_does_not_fit_is_named_at_once(folder, declared, how, error, said):
    with pytest.raises(error, match=said):
        opened(folder, declared, **how)


def test_a_folder_of_nothing_but_damage_is_named_at_once(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the first pictures can be read"):
        opened(folder, OPEN)


def test_a_palette_is_resized_as_its_colours_are(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    indexed = Image.fromarray(np.random.default_rng(2).integers(0, 256, (9, 8), np.uint8), "L").copy()
    indexed.putpalette(colours.tobytes())
    expected = np.asarray(indexed.convert("RGB").resize((5, 6), Image.Resampling.BILINEAR), np.float32) / 255
    indexed.save(tmp_path / "p.png")
    found = everything(opened([tmp_path / "p.png"], PICTURE, resize=True)).groups[0].inputs["x"]
    np.testing.assert_array_equal(found[0], np.moveaxis(expected, -1, 0))


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_numbers_without_a_scale_are_no_picture(tmp_path, values):
    for name, pixels in (("a", PIXELS[0]), ("b", np.ones((6, 5), values))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
    assert "32-bit numbers" in everything(opened(tmp_path, PICTURE)).failed[1]
