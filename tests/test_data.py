"""The registry of data sets and the files in Keras' cache: trouble is named within seconds, nothing is lost.

Fashion-MNIST stands for all that is downloaded.
"""

import gzip
import hashlib
import http.server
import importlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zlib
from pathlib import Path

import pytest

from clora_lab.lab import paths
from clora_lab.lab.data import files, images
from clora_lab.lab.data import registry as datasets

CHECKOUT = Path(__file__).resolve().parents[1]
TOY = ("fashion_mnist", "digits")
FILES = list(images.FASHION_MNIST_MD5)
CACHE = files.keras_dir("datasets", "fashion-mnist").resolve()
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


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
            datasets.load(datasets.resolve(name, TOY))
        message = str(error.value)
        assert str(home / file) in message
        assert images.FASHION_MNIST_MD5[file] in message
        assert "Delete that file and run again" in message
    assert contents(home) == before
    row = datasets.status().set_index("dataset").loc["fashion_mnist"]
    assert row["state"] == "damaged" and str(home / file) in row["note"]


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
            datasets.resolve("auto", TOY)
    path.write_bytes(whole)  # a repaired file counts again in the same process
    assert datasets.resolve("auto", TOY) == "fashion_mnist"


@cached
def test_other_packing_of_the_published_bytes_is_intact(real_home):
    path = real_home / FILES[3]
    raw = gzip.decompress(path.read_bytes())
    path.unlink()
    path.write_bytes(gzip.compress(raw, compresslevel=zlib.Z_BEST_SPEED))
    assert datasets.resolve("auto", TOY) == "fashion_mnist"


def test_missing_offline_says_where_and_how(home):
    with pytest.raises(datasets.DatasetMissing) as error:
        datasets.load("fashion_mnist")
    message = str(error.value)
    for part in (str(home), *FILES, "KERAS_HOME", "--dataset digits", "network", "CLORA_OFFLINE"):
        assert part in message
    assert not home.parents[1].exists()  # looking leaves nothing behind


def test_auto_offline_takes_digits_and_says_so(home):
    with pytest.warns(UserWarning, match="digits.*CLORA_OFFLINE"):
        data = datasets.load(datasets.resolve("auto", TOY))
    assert data.name == "digits"
    assert "digits" in data.title and "stands in for Fashion-MNIST" in data.title


def test_offline_never_asks_the_network(home, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(datasets.DatasetMissing):
        datasets.load("fashion_mnist")


def test_dead_network_is_given_up_within_seconds(home, monkeypatch):
    """A name lookup that hangs takes no timeout: the probe must not wait for it."""
    released = threading.Event()
    monkeypatch.delenv("CLORA_OFFLINE")
    monkeypatch.setattr(files, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: released.wait(30) and [])
    start = time.monotonic()
    with pytest.raises(datasets.DatasetMissing, match="no answer within 0.3 s"):
        datasets.load("fashion_mnist")
    assert time.monotonic() - start < 5
    released.set()


def test_time_limits_add_up_to_less_than_ten_seconds():
    assert files.PROBE_SECONDS + files.STALL_SECONDS < 10


def test_refused_connection_is_a_reason(home, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("connection refused")

    monkeypatch.delenv("CLORA_OFFLINE")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(datasets.DatasetMissing, match="cannot be reached.*connection refused"):
        datasets.load("fashion_mnist")


@cached
def test_auto_takes_the_cached_fashion_mnist_without_a_word(real_home):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.resolve("auto", TOY) == "fashion_mnist"


# --- download -------------------------------------------------------------------------------------


@pytest.fixture
def server(home, tmp_path, monkeypatch):
    """A folder that a server on this machine hands out in place of the real one."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def copyfile(self, source, outputfile):
            content = source.read()
            if (folder / "cut").exists() or (folder / "stall").exists():
                content = content[:9]
            outputfile.write(content)
            if (folder / "stall").exists():
                released.wait(30)

        def log_message(self, *args):
            pass

    released = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(images, "FASHION_MNIST_URL", f"http://127.0.0.1:{running.server_port}/")
        monkeypatch.delenv("CLORA_OFFLINE")
        yield folder
        released.set()
        running.shutdown()


@cached
def test_download_fetches_only_what_is_missing(server, real_home):
    for file in FILES[1:]:
        (real_home / file).unlink()
        (server / file).symlink_to(CACHE / file)
    assert datasets.resolve("auto", TOY) == "fashion_mnist"
    assert (real_home / FILES[0]).is_symlink()  # what was there is untouched
    assert sorted(path.name for path in real_home.iterdir()) == sorted(FILES)
    assert datasets.status().set_index("dataset").loc["fashion_mnist", "state"] == "here"


@pytest.mark.parametrize(
    ("content", "how", "reason"),
    [
        (None, "", "the download failed .404 "),
        (bytes(1000), "cut", "the download failed .*9 bytes read, 991 more expected"),
        (bytes(1000), "stall", "the download failed .*[Tt]imed out"),
        (gzip.compress(bytes(20)), "", f"the download of {FILES[0]} arrived damaged .MD5 "),
    ],
    ids=["gone", "cut short", "stalled", "another file"],
)
def test_failed_download_is_named_and_leaves_nothing_behind(server, home, monkeypatch, content, how, reason):
    monkeypatch.setattr(files, "STALL_SECONDS", 0.3)
    if content:
        (server / FILES[0]).write_bytes(content)
    if how:
        (server / how).touch()
    with pytest.raises(datasets.DatasetMissing, match=reason):
        datasets.load("fashion_mnist")
    with pytest.warns(UserWarning, match=reason):
        assert datasets.resolve("auto", TOY) == "digits"
    assert not list(home.iterdir())


def test_an_archive_is_checked_and_unpacked_where_keras_looks(server, home, monkeypatch):
    monkeypatch.setattr(images, "CIFAR10_URL", images.FASHION_MNIST_URL + "cifar.tar.gz")
    monkeypatch.setattr(images, "CIFAR10_MD5", {"test_batch": hashlib.md5(b"bytes").hexdigest()})
    with tarfile.open(server / "cifar.tar.gz", "w:gz") as tar:
        for name in ("test_batch", "batches.meta"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"bytes"))
    with pytest.raises(
        datasets.DatasetMissing, match="CIFAR-10 is not cached.*SHA256 hash .* does not match"
    ):
        datasets.find("cifar10")
    datasets_dir = home.parent
    assert not [path for path in datasets_dir.rglob("*") if path.is_file()]
    known = hashlib.sha256((server / "cifar.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(images, "CIFAR10_HASH", f"sha256:{known}")
    folder = datasets.find("cifar10")
    assert folder == datasets_dir / "cifar-10-batches-py-target" / "cifar-10-batches-py"
    assert (folder / "test_batch").read_bytes() == b"bytes"
    assert not list(datasets_dir.rglob("*.tar.gz"))


@cached
def test_damaged_file_is_not_downloaded_over(server, real_home):
    (real_home / FILES[0]).unlink()
    damage_altered(real_home / FILES[0])
    for file in FILES:
        (server / file).symlink_to(CACHE / file)
    with pytest.raises(datasets.DatasetDamaged):
        datasets.load(datasets.resolve("auto", TOY))
    assert gzip.decompress((real_home / FILES[0]).read_bytes()) == b"not what was published"


def test_folder_that_cannot_be_written_is_a_reason(server, home, tmp_path):
    (tmp_path / "keras").write_text("a file where the folder should be")
    with pytest.raises(datasets.DatasetMissing, match="download failed.*keras"):
        datasets.load("fashion_mnist")


# --- names, status, folders -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("fashion-mnist", "fashion_mnist"), ("Digits", "digits"), ("digitz", "digits"), (3, "")],
)
def test_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="`dataset` must be one of") as error:
        datasets.load(name)
    assert repr(name) in str(error.value)
    assert f"Did you mean {nearest!r}?" in str(error.value) or not nearest


def test_importing_the_registry_loads_nothing_slow():
    program = """
import sys
sys.argv = ["-m"]  # as `python -m clora_lab` does: the package itself is light then
from clora_lab.lab.data import registry
registry.label("imdb"), registry.title("digits"), registry.require("synthetic")
print(sorted({"keras", "tensorflow", "numpy", "pandas", "sklearn", "pooch", "requests"} & set(sys.modules)))
registry.status()
print(sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[]", "[]"], run.stderr


def test_every_line_of_the_registry_has_its_functions_and_ends_in_something_that_runs():
    for entry in datasets.REGISTRY:
        module = importlib.import_module(f"clora_lab.lab.data.{entry.home}")
        assert callable(getattr(module, f"load_{entry.name}"))
        assert hasattr(module, f"find_{entry.name}") == bool(entry.stand_in)
        seen = [entry.name]
        while datasets.entry(seen[-1]).stand_in:
            seen.append(datasets.entry(seen[-1]).stand_in)
            assert len(seen) < 5
        assert datasets.find(seen[-1]) is None


def test_auto_names_all_that_it_could_not_have(home, monkeypatch):
    monkeypatch.delenv("CLORA_CIFAR10", raising=False)
    with pytest.warns(UserWarning, match="'auto' takes digits at 32x32.*CLORA_CIFAR10.*CLORA_OFFLINE"):
        assert datasets.resolve("auto", ("cifar10_jpeg", "cifar10", "digits32")) == "digits32"
    with pytest.raises(datasets.DatasetMissing, match="CLORA_CIFAR10.*CLORA_OFFLINE"):
        datasets.resolve("auto", ("cifar10_jpeg", "cifar10"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.resolve("auto", TOY, download=False) == "digits"


def test_what_is_missing_is_said_with_a_command_to_paste(home):
    datasets.require("digits")
    with pytest.raises(datasets.DatasetMissing, match="needs no download: run --dataset digits32$"):
        datasets.require("cifar10", command="run --dataset {name}")


def test_labels_and_titles():
    assert datasets.label("fashion-MNIST") == "Fashion-MNIST" == datasets.title("fashion_mnist")
    assert datasets.label("my photos") == "my photos"
    assert "stands in for CIFAR-10" in datasets.title("digits32")
    with pytest.raises(ValueError, match="Did you mean 'imdb'"):
        datasets.title("imbd")


def test_status_of_an_empty_cache(home, monkeypatch):
    for name in ("CLORA_CIFAR10", "CLORA_IMDB"):
        monkeypatch.delenv(name, raising=False)
    table = datasets.status().set_index("dataset")
    assert list(table.columns) == ["state", "bytes", "path", "note"]
    assert list(table.index) == [entry.name for entry in datasets.REGISTRY]
    missing = table[table["state"] == "missing"]
    assert list(missing.index) == ["fashion_mnist", "cifar10_jpeg", "cifar10", "imdb"]
    assert (missing["note"] == "python -m clora_lab data " + missing.index).all()
    assert set(table.drop(missing.index)["state"]) == {"built in"}
    assert table["bytes"].sum() == 0 and set(table["path"]) == {""}


@cached
def test_status_of_a_full_cache(real_home):
    row = datasets.status().set_index("dataset").loc["fashion_mnist"]
    assert row["state"] == "here" and row["path"] == str(real_home) and row["note"] == ""
    assert row["bytes"] == sum((CACHE / file).stat().st_size for file in FILES)


def test_keras_home_is_read_at_each_call(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        files.keras_dir("datasets", "fashion-mnist") == tmp_path / "elsewhere" / "datasets" / "fashion-mnist"
    )
    monkeypatch.delenv("KERAS_HOME")
    assert files.keras_dir("datasets", "fashion-mnist") == tmp_path / ".keras" / "datasets" / "fashion-mnist"


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
    module = tmp_path / "site-packages" / "clora_lab" / "lab" / "paths.py"
    monkeypatch.setattr(paths, "__file__", str(module))
    with pytest.raises(FileNotFoundError, match="Install the package again"):
        paths.data_dir()
    wheel = module.parents[1] / "_data"
    (wheel / "published").mkdir(parents=True)
    (wheel / "published" / "toy.csv").write_text("")
    assert paths.data_dir() == wheel
