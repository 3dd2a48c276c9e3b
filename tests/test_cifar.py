"""CIFAR-10 from folders, from Keras, and what stands in for it; augmentation against its definition."""

import numpy as np
import pytest
from PIL import Image

from clora_lab.lab.data import cifar
from clora_lab.lab.data.datasets import DatasetDamaged, DatasetMissing

CLASSES = ("cat", "dog", "ship", "frog", "bird", "deer", "horse", "plane", "car", "truck")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder with 45 training and 12 test images a class; the first pixel's red says which class it is."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 45), ("test", 12)):
        for label, name in enumerate(sorted(CLASSES)):
            where = tmp_path / split / name
            where.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3)).astype("uint8")
                pixels[0, 0, 0] = label
                Image.fromarray(pixels).save(where / f"{number:04d}.png")
    monkeypatch.setenv(cifar.VARIABLE, str(tmp_path))
    return tmp_path


def test_a_folder_gives_stratified_seeded_parts(images):
    data = cifar.load("auto", "tiny")
    assert data.name == "cifar10_jpeg" and "JPEG" in data.title and data.classes == tuple(sorted(CLASSES))
    for split, count in (("train", 300), ("val", 100), ("test", 100)):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        assert x.shape == (count, 32, 32, 3) and x.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(y), [count // 10] * 10)
        np.testing.assert_array_equal(x[:, 0, 0, 0], y)  # each image has its own label
    train, val = ({image.tobytes() for image in part} for part in (data.x_train, data.x_val))
    assert not train & val
    same, other = cifar.load("cifar10_jpeg", "tiny"), cifar.load("cifar10_jpeg", "tiny", seed=1)
    np.testing.assert_array_equal(same.x_train, data.x_train)
    assert (other.x_train != data.x_train).any()


def test_too_few_images_are_named(images):
    with pytest.raises(DatasetDamaged, match=r"holds 45 images, and part 'slides' needs 600"):
        cifar.load("cifar10_jpeg", "slides")


def test_an_unreadable_or_odd_image_is_named(images):
    for file in (images / "test" / "cat").iterdir():
        file.write_bytes(b"not an image")
    with pytest.raises(DatasetDamaged, match=r"cat.*can't be read as an image"):
        cifar.load("cifar10_jpeg", "tiny")
    for file in (images / "test" / "cat").iterdir():
        Image.fromarray(np.zeros((16, 32, 3), "uint8")).save(file)
    with pytest.raises(DatasetDamaged, match="32 x 16 pixels, and must be 32 x 32"):
        cifar.load("cifar10_jpeg", "tiny")


def test_a_half_unpacked_folder_is_named(images, monkeypatch, tmp_path):
    (images / "test" / "zebra").mkdir()
    with pytest.raises(DatasetDamaged, match="Unpack the archive again"):
        cifar.load("cifar10_jpeg", "tiny")
    monkeypatch.setenv(cifar.VARIABLE, str(tmp_path / "train"))
    with pytest.raises(DatasetMissing, match=f"{cifar.VARIABLE} must name the folder that holds train/"):
        cifar.load("auto", "tiny")
    monkeypatch.delenv(cifar.VARIABLE)
    with pytest.raises(DatasetMissing, match=cifar.VARIABLE):
        cifar.load("cifar10_jpeg", "tiny")


def test_without_a_network_cifar_is_missing_and_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv(cifar.VARIABLE, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert cifar.resolve("auto") == "cifar10"
    with pytest.raises(DatasetMissing, match=rf"CLORA_OFFLINE.*{cifar.VARIABLE}"):
        cifar.load("cifar10", "tiny")


def test_keras_data_is_cut_to_the_slides_parts(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    y, y_test = np.arange(6_500)[:, None] % 10, np.arange(1_500)[:, None] % 10
    pixels = [rng.integers(0, 255, (len(labels), 32, 32, 3), "uint8") for labels in (y, y_test)]
    (tmp_path / "datasets" / "cifar-10-batches-py-target").mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    load = lambda: ((pixels[0], y), (pixels[1], y_test))  # noqa: E731
    monkeypatch.setattr("keras.datasets.cifar10.load_data", load)
    data = cifar.load("cifar10", "slides")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (5_000, 1_000, 1_000)
    np.testing.assert_array_equal(np.bincount(data.y_train), [500] * 10)
    assert data.title == "CIFAR-10" and "other training images" in data.note
    full = cifar.load("cifar10", "full")
    assert len(full.x_train) == 6_500 and full.x_val is full.x_test and "the test images" in full.note


def test_digits_say_that_they_stand_in():
    data = cifar.load("digits32", "slides")
    assert "stands in for CIFAR-10" in data.title and data.x_train.shape[1:] == (32, 32, 3)
    assert len(data.x_train) + len(data.x_val) <= 1497 and len(data.x_test) == 300
    block = data.x_train[0, 4:8, 4:8, 0]
    assert (block == block[0, 0]).all() and data.x_train.max() == 255


@pytest.mark.parametrize(("name", "part"), [("cifar", "tiny"), ("digits32", "half")])
def test_unknown_names_are_refused(name, part):
    with pytest.raises(ValueError, match="must be one of"):
        cifar.load(name, part)


def test_augmentation_mirrors_and_shifts_within_the_margin():
    rows = np.arange(32, dtype="float32")
    image = np.stack(np.broadcast_arrays(rows[:, None], rows[None, :], 7.0), axis=-1)  # (row, column, 7)
    out = cifar.augment(np.repeat(image[None], 400, axis=0), np.random.default_rng(0))
    assert out.shape == (400, 32, 32, 3) and (out[..., 2] == 7).all()
    middle = out[:, 10:20, 10:20]
    down = middle[:, 0, 0, 0] - 10
    assert set(down) == set(range(-4, 5))
    steps = np.diff(middle[:, 0, :, 1], axis=1)
    assert set(np.unique(steps)) == {-1.0, 1.0}  # half of them mirrored
    assert 0.4 < (steps[:, 0] < 0).mean() < 0.6
    np.testing.assert_array_equal(
        out, cifar.augment(np.repeat(image[None], 400, axis=0), np.random.default_rng(0))
    )


def test_standardised_pixels():
    x = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3)).astype("uint8")
    expected = (x.astype("float64") - cifar.MEAN) / cifar.STD
    np.testing.assert_allclose(cifar.standardise(x), expected, rtol=1e-5, atol=1e-6)
