"""Images: splits are exact and seeded, bytes are Keras' own, augmentation is what its definition says."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from clora_lab.lab.data import files, images
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing

FILES = list(images.FASHION_MNIST_MD5)
CACHE = files.keras_dir("datasets", "fashion-mnist").resolve()
CIFAR = ("cifar10_jpeg", "cifar10", "digits32")
CLASSES = ("cat", "dog", "ship", "frog", "bird", "deer", "horse", "plane", "car", "truck")
cached = pytest.mark.skipif(
    not all((CACHE / file).is_file() for file in FILES),
    reason=f"the four Fashion-MNIST files are not in {CACHE}; set KERAS_HOME to where they are",
)


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion_mnist")


# --- digits ---------------------------------------------------------------------------------------


def test_digits_split_is_a_partition_of_the_original():
    data = datasets.load("digits")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (1197, 300, 300)
    assert (len(data.classes), data.shape) == (10, (8, 8))
    original = load_digits()
    x = np.concatenate([data.x_train, data.x_val, data.x_test])
    y = np.concatenate([data.y_train, data.y_val, data.y_test])
    ours = np.column_stack([x * 16, y])
    theirs = np.column_stack([original.data, original.target])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_parts_have_the_promised_types_range_and_proportions():
    data = datasets.load("digits")
    for x, y in [
        (data.x_train, data.y_train),
        (data.x_val, data.y_val),
        (data.x_test, data.y_test),
    ]:
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert x.min() == 0 and x.max() == 1
        share = np.bincount(load_digits().target) / 1797
        np.testing.assert_allclose(np.bincount(y) / len(y), share, atol=2 / len(y))


def test_digits_seed_moves_validation_but_never_test():
    first, again, other = (datasets.load("digits", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert not np.array_equal(first.x_val, other.x_val)
    np.testing.assert_array_equal(first.x_test, other.x_test)
    np.testing.assert_array_equal(first.y_test, other.y_test)


# --- Fashion-MNIST --------------------------------------------------------------------------------


@cached
def test_fashion_mnist_split(fashion):
    assert fashion.x_train.shape == (48_000, 784)
    assert fashion.x_val.shape == (12_000, 784)
    assert fashion.x_test.shape == (10_000, 784)
    assert (fashion.x_train.dtype, fashion.y_train.dtype) == (np.float32, np.int32)
    assert (fashion.shape, len(fashion.classes), fashion.title) == ((28, 28), 10, "Fashion-MNIST")
    assert fashion.x_train.min() == 0 and fashion.x_train.max() == 1
    together = np.bincount(fashion.y_train) + np.bincount(fashion.y_val)
    np.testing.assert_array_equal(together, 6_000)
    np.testing.assert_array_equal(np.bincount(fashion.y_test), 1_000)


@cached
def test_fashion_mnist_is_what_the_files_hold_in_the_order_of_the_seed(fashion):
    with gzip.open(CACHE / FILES[0]) as images, gzip.open(CACHE / FILES[1]) as labels:
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(60_000, 784)
        y = np.frombuffer(labels.read(), np.uint8, offset=8)
    order = np.random.default_rng(0).permutation(60_000)
    ours = np.round(fashion.x_train[:500] * 255)
    np.testing.assert_array_equal(ours, x[order[:500]])
    np.testing.assert_array_equal(fashion.y_train, y[order[:48_000]])
    np.testing.assert_array_equal(fashion.y_val, y[order[48_000:]])


@cached
def test_keras_finds_the_same_files_in_the_same_folder():
    import keras

    for file in FILES:  # they exist there, so Keras asks no server
        path = keras.utils.get_file(file, "http://localhost:1/none", cache_subdir="datasets/fashion-mnist")
        assert Path(path).resolve() == CACHE / file
    train, test = keras.datasets.fashion_mnist.load_data()
    for file, array in zip(FILES, (*train, *test), strict=True):
        np.testing.assert_array_equal(images.read_idx(CACHE / file), array)


@pytest.mark.parametrize("seed", [-1, 0.5, True, 2**32])
def test_seed_of_the_split_is_checked(seed):
    with pytest.raises(ValueError, match="`seed` must be"):
        datasets.load("digits", seed=seed)


# --- CIFAR-10 ---------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch):
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
    monkeypatch.setenv(images.VARIABLE, str(tmp_path))
    return tmp_path


def test_a_folder_gives_stratified_seeded_parts(photos):
    data = datasets.load(datasets.resolve("auto", CIFAR), part="tiny")
    assert data.name == "cifar10_jpeg" and "JPEG" in data.title and data.classes == tuple(sorted(CLASSES))
    for split, count in (("train", 300), ("val", 100), ("test", 100)):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        assert x.shape == (count, 32, 32, 3) and x.dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(y), [count // 10] * 10)
        np.testing.assert_array_equal(x[:, 0, 0, 0], y)  # each image has its own label
    train, val = ({image.tobytes() for image in part} for part in (data.x_train, data.x_val))
    assert not train & val
    same, other = (
        datasets.load("cifar10_jpeg", part="tiny"),
        datasets.load("cifar10_jpeg", part="tiny", seed=1),
    )
    np.testing.assert_array_equal(same.x_train, data.x_train)
    assert (other.x_train != data.x_train).any()


def test_too_few_images_are_named(photos):
    with pytest.raises(DatasetDamaged, match=r"holds 45 images, and part 'slides' needs 600"):
        datasets.load("cifar10_jpeg", part="slides")


def test_an_unreadable_or_odd_image_is_named(photos):
    for file in (photos / "test" / "cat").iterdir():
        file.write_bytes(b"not an image")
    with pytest.raises(DatasetDamaged, match=r"cat.*can't be read as an image"):
        datasets.load("cifar10_jpeg", part="tiny")
    for file in (photos / "test" / "cat").iterdir():
        Image.fromarray(np.zeros((16, 32, 3), "uint8")).save(file)
    with pytest.raises(DatasetDamaged, match="32 x 16 pixels, and must be 32 x 32"):
        datasets.load("cifar10_jpeg", part="tiny")


def test_a_half_unpacked_folder_is_named(photos, monkeypatch, tmp_path):
    (photos / "test" / "zebra").mkdir()
    with pytest.raises(DatasetDamaged, match="Unpack the archive again"):
        datasets.load("cifar10_jpeg", part="tiny")
    monkeypatch.setenv(images.VARIABLE, str(tmp_path / "train"))
    # Named and not what it must be: 'auto' does not pass it over.
    with pytest.raises(DatasetDamaged, match=f"{images.VARIABLE} must name the folder that holds train/"):
        datasets.load(datasets.resolve("auto", CIFAR), part="tiny")
    monkeypatch.delenv(images.VARIABLE)
    with pytest.raises(DatasetMissing, match=images.VARIABLE):
        datasets.load("cifar10_jpeg", part="tiny")


def test_without_a_network_cifar_is_missing_and_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv(images.VARIABLE, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="stands in for CIFAR-10"):
        assert datasets.resolve("auto", CIFAR) == "digits32"
    with pytest.raises(DatasetMissing, match=rf"CLORA_OFFLINE.*{images.VARIABLE}.*--dataset digits32"):
        datasets.load("cifar10", part="tiny")


def write_cifar10(folder, monkeypatch, train=1_300, test=1_500):
    """The six files of CIFAR-10 in small, and the images and labels that are in them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    found, md5 = {}, {}
    for file in images.CIFAR10_MD5:
        count = test if file == "test_batch" else train
        x, y = rng.integers(0, 255, (count, 32, 32, 3), "uint8"), np.arange(count) % 10
        planes = x.transpose(0, 3, 1, 2).reshape(count, -1)  # red, green, blue, each row by row
        (folder / file).write_bytes(pickle.dumps({b"data": planes, b"labels": y.tolist()}))
        found[file] = (x, y)
        md5[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    monkeypatch.setattr(images, "CIFAR10_MD5", md5)
    return found


@pytest.mark.parametrize("place", ["cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10-batches-py"])
def test_cifar10_in_keras_cache_is_cut_to_the_slides_parts(monkeypatch, tmp_path, place):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    written = write_cifar10(tmp_path / "datasets" / place, monkeypatch)
    data = datasets.load("cifar10", part="slides")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (5_000, 1_000, 1_000)
    np.testing.assert_array_equal(np.bincount(data.y_train), [500] * 10)
    assert data.title == "CIFAR-10" and "1,000 other training images" in data.note
    full = datasets.load("cifar10", part="full")
    assert len(full.x_train) == 6_500 and full.x_val is full.x_test and "the test images" in full.note
    np.testing.assert_array_equal(full.x_train[1_300:2_600], written["data_batch_2"][0])
    np.testing.assert_array_equal(full.x_test, written["test_batch"][0])
    np.testing.assert_array_equal(full.y_test, written["test_batch"][1])


def test_a_damaged_batch_is_named_and_never_unpickled(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    folder = tmp_path / "datasets" / "cifar-10-batches-py"
    write_cifar10(folder, monkeypatch)
    (folder / "data_batch_3").write_bytes(b"no pickle")
    for name in ("cifar10", "auto"):
        with pytest.raises(DatasetDamaged, match="data_batch_3 is damaged: expected MD5 .*Delete that file"):
            datasets.load(datasets.resolve(name, ("cifar10", "digits32")))
    assert (folder / "data_batch_3").read_bytes() == b"no pickle"
    (folder / "data_batch_3").unlink()
    with pytest.raises(DatasetDamaged, match="lacks data_batch_3. Delete that folder"):
        datasets.load("cifar10")


def test_digits_say_that_they_stand_in():
    data = datasets.load("digits32", part="slides")
    assert "stands in for CIFAR-10" in data.title and data.x_train.shape[1:] == (32, 32, 3)
    assert len(data.x_train) + len(data.x_val) <= 1497 and len(data.x_test) == 300
    block = data.x_train[0, 4:8, 4:8, 0]
    assert (block == block[0, 0]).all() and data.x_train.max() == 255


@pytest.mark.parametrize(("name", "part"), [("cifar", "tiny"), ("digits32", "half")])
def test_unknown_names_are_refused(name, part):
    with pytest.raises(ValueError, match="must be one of"):
        datasets.load(name, part=part)


def test_augmentation_mirrors_and_shifts_within_the_margin():
    rows = np.arange(32, dtype="float32")
    image = np.stack(np.broadcast_arrays(rows[:, None], rows[None, :], 7.0), axis=-1)  # (row, column, 7)
    out = images.augment(np.repeat(image[None], 400, axis=0), np.random.default_rng(0))
    assert out.shape == (400, 32, 32, 3) and (out[..., 2] == 7).all()
    middle = out[:, 10:20, 10:20]
    down = middle[:, 0, 0, 0] - 10
    assert set(down) == set(range(-4, 5))
    steps = np.diff(middle[:, 0, :, 1], axis=1)
    assert set(np.unique(steps)) == {-1.0, 1.0}  # half of them mirrored
    assert 0.4 < (steps[:, 0] < 0).mean() < 0.6
    np.testing.assert_array_equal(
        out, images.augment(np.repeat(image[None], 400, axis=0), np.random.default_rng(0))
    )


def test_standardised_pixels():
    x = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3)).astype("uint8")
    expected = (x.astype("float64") - images.MEAN) / images.STD
    np.testing.assert_allclose(images.standardise(x), expected, rtol=1e-5, atol=1e-6)
