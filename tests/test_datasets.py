"""Data sets: the bytes are checked, the split is exact, and trouble is named within seconds."""

import email.message
import gzip
import io
import os
import socket
import threading
import time
import urllib.error
import urllib.request
import urllib.response
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from clora_lab.lab import paths
from clora_lab.lab.data import datasets

CHECKOUT = Path(__file__).resolve().parents[1]
FILES = list(datasets.FASHION_MNIST_MD5)
CACHE = datasets.fashion_mnist_dir().resolve()
cached = pytest.mark.skipif(
    not all((CACHE / file).is_file() for file in FILES),
    reason=f"the four Fashion-MNIST files are not in {CACHE}; set KERAS_HOME to where they are",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty KERAS_HOME without a network; returns its folder for Fashion-MNIST."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("CLORA_OFFLINE", "1")
    return tmp_path / "keras" / "datasets" / "fashion-mnist"


@pytest.fixture
def real_home(home):
    """As `home`, with links to the real files."""
    home.mkdir(parents=True)
    for file in FILES:
        (home / file).symlink_to(CACHE / file)
    return home


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion_mnist")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- digits ---------------------------------------------------------------------------------------


def test_digits_split_is_a_partition_of_the_original():
    data = datasets.load("digits")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (1197, 300, 300)
    assert (data.classes, data.shape) == (10, (8, 8))
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
    assert (fashion.shape, fashion.classes, fashion.title) == ((28, 28), 10, "Fashion-MNIST")
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
def test_auto_takes_the_cached_fashion_mnist_without_a_word(real_home):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.resolve("auto") == "fashion_mnist"


@cached
def test_keras_finds_the_same_files_in_the_same_folder():
    import keras

    for file in FILES:  # they exist there, so Keras asks no server
        path = keras.utils.get_file(file, "http://localhost:1/none", cache_subdir="datasets/fashion-mnist")
        assert Path(path).resolve() == CACHE / file
    train, test = keras.datasets.fashion_mnist.load_data()
    for file, array in zip(FILES, (*train, *test), strict=True):
        np.testing.assert_array_equal(datasets._read_idx(CACHE / file), array)


# --- damaged and missing files --------------------------------------------------------------------


def damage_altered(path):
    path.write_bytes(gzip.compress(b"not what was published"))


def damage_truncated(path):
    path.write_bytes(gzip.compress(os.urandom(5000))[:3000])


def damage_empty(path):
    path.write_bytes(b"")


def damage_not_gzip(path):
    path.write_bytes(b"<html>404</html>")


def damage_bits(path):
    packed = bytearray(gzip.compress(b"abc" * 1000))
    packed[12:20] = b"\xff" * 8
    path.write_bytes(packed)


def damage_folder(path):
    path.mkdir()


@pytest.mark.parametrize("file", [FILES[0], FILES[3]])
@pytest.mark.parametrize(
    "damage",
    [
        damage_altered,
        damage_truncated,
        damage_empty,
        damage_not_gzip,
        damage_bits,
        damage_folder,
    ],
)
def test_damaged_file_is_named_and_left_alone(home, damage, file):
    home.mkdir(parents=True)
    damage(home / file)
    before = contents(home)
    for name in ("fashion_mnist", "auto"):  # 'auto' must not pass over damage in silence
        with pytest.raises(datasets.DatasetDamaged) as error:
            datasets.load(name)
        message = str(error.value)
        assert str(home / file) in message
        assert datasets.FASHION_MNIST_MD5[file] in message
        assert "Delete that file and run again" in message
    assert contents(home) == before
    state = datasets.status().set_index("file")["state"]
    assert state[file] == "damaged"
    assert (state == "missing").sum() == 3


def test_damaged_file_reports_the_md5_found(home):
    home.mkdir(parents=True)
    damage_altered(home / FILES[2])
    # md5sum of that text, computed outside Python
    with pytest.raises(datasets.DatasetDamaged, match="found MD5 a7bbfc26f084ba5ee3bc3bfaf2d6d735"):
        datasets.load("fashion_mnist")


@cached
def test_real_file_with_one_bit_changed_or_its_end_missing(real_home):
    path = real_home / FILES[3]  # the test labels: small
    raw = bytearray(gzip.decompress(path.read_bytes()))
    whole = path.read_bytes()
    raw[5000] ^= 1
    for damaged in (gzip.compress(bytes(raw)), whole[: len(whole) // 2], whole[:-4]):
        path.unlink()
        path.write_bytes(damaged)
        with pytest.raises(datasets.DatasetDamaged, match="t10k-labels"):
            datasets.resolve("auto")
    path.write_bytes(whole)  # a repaired file counts again in the same process
    assert datasets.resolve("auto") == "fashion_mnist"


@cached
def test_other_packing_of_the_published_bytes_is_intact(real_home):
    path = real_home / FILES[3]
    raw = gzip.decompress(path.read_bytes())
    path.unlink()
    path.write_bytes(gzip.compress(raw, compresslevel=zlib.Z_BEST_SPEED))
    assert datasets.resolve("auto") == "fashion_mnist"


def test_missing_offline_says_where_and_how(home):
    with pytest.raises(datasets.DatasetMissing) as error:
        datasets.load("fashion_mnist")
    message = str(error.value)
    for part in (str(home), *FILES, "KERAS_HOME", "--dataset digits", "network", "CLORA_OFFLINE"):
        assert part in message
    assert not home.parents[1].exists()  # looking leaves nothing behind


def test_auto_offline_takes_digits_and_says_so(home):
    with pytest.warns(UserWarning, match="digits.*CLORA_OFFLINE"):
        data = datasets.load("auto")
    assert data.name == "digits"
    assert "digits" in data.title and "stands in for Fashion-MNIST" in data.title


def test_offline_never_asks_the_network(home, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets, "_probe", refuse)
    with pytest.raises(datasets.DatasetMissing):
        datasets.load("fashion_mnist")


def test_dead_network_is_given_up_within_seconds(home, monkeypatch):
    """A name lookup that hangs takes no timeout: the probe must not wait for it."""
    released = threading.Event()
    monkeypatch.delenv("CLORA_OFFLINE")
    monkeypatch.setattr(datasets, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: released.wait(30) and [])
    start = time.monotonic()
    with pytest.raises(datasets.DatasetMissing, match="no answer within 0.3 s"):
        datasets.load("fashion_mnist")
    assert time.monotonic() - start < 5
    released.set()


def test_time_limits_add_up_to_less_than_ten_seconds():
    assert datasets.PROBE_SECONDS + datasets.STALL_SECONDS < 10


def test_refused_connection_is_a_reason(home, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("connection refused")

    monkeypatch.delenv("CLORA_OFFLINE")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(datasets.DatasetMissing, match="cannot be reached.*connection refused"):
        datasets.load("fashion_mnist")


# --- download -------------------------------------------------------------------------------------


@pytest.fixture
def server(home, tmp_path, monkeypatch):
    """A folder that stands for the download server; Keras runs, only the wire is replaced."""
    import keras  # noqa: F401  before the wire is cut: Keras may look around while it is imported

    folder = tmp_path / "server"
    folder.mkdir()

    def urlopen(url, data=None, timeout=None):
        probing = isinstance(url, urllib.request.Request)
        url = url.full_url if probing else url
        assert url.startswith(datasets.DOWNLOAD_URL)
        assert timeout or socket.getdefaulttimeout(), "a stalled transfer would hang"
        content, headers = b"", email.message.Message()
        if not probing:
            path = folder / url.rsplit("/", 1)[1]
            if not path.exists():
                raise urllib.error.URLError("the host has gone")
            content = path.read_bytes()
            headers["Content-Length"] = str(max(len(content), 1000))
        return urllib.response.addinfourl(io.BytesIO(content), headers, url)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.delenv("CLORA_OFFLINE")
    yield folder
    assert socket.getdefaulttimeout() is None


@cached
def test_download_fetches_only_what_is_missing(server, real_home):
    for file in FILES[1:]:
        (real_home / file).unlink()
        (server / file).symlink_to(CACHE / file)
    assert datasets.resolve("auto") == "fashion_mnist"
    assert (real_home / FILES[0]).is_symlink()  # what was there is untouched
    assert sorted(path.name for path in real_home.iterdir()) == sorted(FILES)
    assert set(datasets.status()["state"]) == {"intact", "embedded"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "the host has gone"),
        (b"cut short", "got only 9 out of 1000 bytes"),
        (gzip.compress(bytes(20)).ljust(1000, b"\0"), f"{FILES[0]} arrived damaged .MD5 "),
    ],
)
def test_failed_download_is_named_and_leaves_nothing_behind(server, home, content, reason):
    if content:
        (server / FILES[0]).write_bytes(content)
    with pytest.raises(datasets.DatasetMissing, match=reason):
        datasets.load("fashion_mnist")
    with pytest.warns(UserWarning, match=reason):
        assert datasets.resolve("auto") == "digits"
    assert not list(home.iterdir())


@cached
def test_damaged_file_is_not_downloaded_over(server, real_home):
    (real_home / FILES[0]).unlink()
    damage_altered(real_home / FILES[0])
    for file in FILES:
        (server / file).symlink_to(CACHE / file)
    with pytest.raises(datasets.DatasetDamaged):
        datasets.load("auto")
    assert gzip.decompress((real_home / FILES[0]).read_bytes()) == b"not what was published"


def test_folder_that_cannot_be_written_is_a_reason(server, home, tmp_path):
    (tmp_path / "keras").write_text("a file where the folder should be")
    with pytest.raises(datasets.DatasetMissing, match="download failed.*keras"):
        datasets.load("fashion_mnist")


# --- names, status, folders -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("fashion-mnist", "fashion_mnist"), ("Digits", "digits"), ("digit", "digits"), (3, "")],
)
def test_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="`name` must be one of") as error:
        datasets.load(name)
    assert repr(name) in str(error.value)
    assert f"Did you mean {nearest!r}?" in str(error.value) or not nearest


@pytest.mark.parametrize("seed", [-1, 0.5, True, 2**32])
def test_seed_of_the_split_is_checked(seed):
    with pytest.raises(ValueError, match="`seed` must be"):
        datasets.load("digits", seed=seed)


def test_status_of_an_empty_cache(home):
    table = datasets.status()
    assert list(table.columns) == ["dataset", "file", "path", "state", "bytes"]
    fashion = table[table["dataset"] == "fashion_mnist"]
    assert list(fashion["file"]) == FILES
    assert set(fashion["state"]) == {"missing"} and fashion["bytes"].sum() == 0
    assert fashion["path"].tolist() == [str(home / file) for file in FILES]
    digits = table[table["dataset"] == "digits"].iloc[0]
    assert digits["state"] == "embedded" and digits["bytes"] == Path(digits["path"]).stat().st_size


@cached
def test_status_of_a_full_cache(real_home):
    table = datasets.status().set_index("file").loc[FILES]
    assert set(table["state"]) == {"intact"}
    assert table["bytes"].tolist() == [(CACHE / file).stat().st_size for file in FILES]


def test_keras_home_is_read_at_each_call(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.fashion_mnist_dir() == tmp_path / "elsewhere" / "datasets" / "fashion-mnist"
    monkeypatch.delenv("KERAS_HOME")
    assert datasets.fashion_mnist_dir() == tmp_path / ".keras" / "datasets" / "fashion-mnist"


def test_cache_dir_is_made_on_demand(monkeypatch, tmp_path):
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "a" / "b"))
    assert paths.cache_dir() == tmp_path / "a" / "b"
    assert paths.cache_dir().is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "file" / "b"))
    with pytest.raises(OSError, match="Set CLORA_CACHE"):
        paths.cache_dir()


def test_data_dir_of_a_checkout_and_of_a_wheel(monkeypatch, tmp_path):
    assert paths.data_dir() == CHECKOUT / "data"
    module = tmp_path / "site-packages" / "clora_lab" / "studies" / "paths.py"
    monkeypatch.setattr(paths, "__file__", str(module))
    with pytest.raises(FileNotFoundError, match="Install the package again"):
        paths.data_dir()
    wheel = module.parents[1] / "_data"
    (wheel / "published").mkdir(parents=True)
    (wheel / "published" / "toy.csv").write_text("")
    assert paths.data_dir() == wheel
