"""Reviews: folders and archives are checked, parts are stratified and fixed, tokens are KerasHub's own."""

import os
import tarfile

import numpy as np
import pytest

from clora_lab.lab import paths
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data import text, tokens
from clora_lab.lab.data.registry import DatasetDamaged, DatasetMissing

COUNT = 40
WORDS = "the a film plot was is good bad ! . very not actors and boring music".split()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Forty files a folder in place of 12,500, an own cache, and no hint where IMDB is."""
    monkeypatch.setattr(text, "COUNT", COUNT)
    monkeypatch.setitem(text.SIZES, "imdb", (60, 20, 80))
    monkeypatch.setenv("CLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv(text.VARIABLE, raising=False)
    return tmp_path


def write_imdb(folder, count=COUNT):
    """An aclImdb of short reviews that say where they are from."""
    for split in ("train", "test"):
        for name in text.CLASSES:
            place = folder / "aclImdb" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{i}_7.txt").write_text(f"{split} {name} {i}<br /><br />the film", encoding="utf-8")
    return folder / "aclImdb"


def pack(folder, archive, kind):
    with tarfile.open(archive, f"w:{kind}") as tar:
        tar.add(folder, "aclImdb")
    return archive


# IMDB


def test_parts_are_disjoint_stratified_and_complete(small):
    reviews = datasets.load("imdb", path=write_imdb(small))
    parts = [set(part) for part in (reviews.x_train, reviews.x_val, reviews.x_test)]
    assert [len(part) for part in parts] == [60, 20, 80]
    assert not parts[0] & parts[1]
    assert all(line.startswith("train") for line in parts[0] | parts[1])
    assert all(line.startswith("test") for line in parts[2])
    for part in ("train", "val", "test"):
        texts, labels = getattr(reviews, f"x_{part}"), getattr(reviews, f"y_{part}")
        assert labels.mean() == 0.5 and labels.dtype == np.int32
        assert [int("pos" in line) for line in texts] == labels.tolist()
    assert reviews.title == "IMDB"


def test_a_smaller_fraction_is_a_part_of_a_larger_one(small):
    folder = write_imdb(small)
    whole, half = datasets.load("imdb", path=folder), datasets.load("imdb", fraction=0.5, path=folder)
    for part in ("x_train", "x_val", "x_test"):
        assert getattr(half, part) == getattr(whole, part)[: len(getattr(half, part))]
    assert len(half.x_train) == 30 and half.y_train.mean() == 0.5
    assert half.title == "IMDB, 50%" and half.fraction == 0.5


def test_the_seed_alone_decides(small):
    folder = write_imdb(small)
    assert datasets.load("imdb", path=folder).x_train == datasets.load("imdb", path=folder).x_train
    assert datasets.load("imdb", path=folder).x_train != datasets.load("imdb", path=folder, seed=1).x_train


@pytest.mark.parametrize("named", ["folder", "parent", "variable", "keras"])
def test_the_folder_is_found(small, named, monkeypatch):
    if named == "keras":
        write_imdb(small / "keras/datasets")
        assert text.find_imdb() == small / "keras/datasets/aclImdb"
        return
    folder = write_imdb(small)
    if named == "variable":
        monkeypatch.setenv(text.VARIABLE, str(folder))
    assert text.find_imdb(path={"folder": folder, "parent": small}.get(named)) == folder


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_an_archive_is_unpacked_once(small, kind):
    archive = pack(write_imdb(small / "source"), small / f"reviews.tar.{kind}", kind)
    found = text.find_imdb(path=archive)
    assert found.is_relative_to(paths.cache_dir())
    assert len(datasets.load("imdb", path=archive).x_train) == 60
    before = (found / "train/pos/0_7.txt").stat().st_mtime_ns, os.stat(found).st_ino
    assert text.find_imdb(path=archive) == found
    assert before == ((found / "train/pos/0_7.txt").stat().st_mtime_ns, os.stat(found).st_ino)


def test_only_reviews_leave_the_archive(small):
    folder = write_imdb(small / "source")
    (folder / "train/urls_pos.txt").write_text("http://...")
    (folder / "README").write_text("about")
    found = text.find_imdb(path=pack(folder, small / "reviews.tar.gz", "gz"))
    assert not (found / "README").exists() and not (found / "train/urls_pos.txt").exists()


def test_half_an_archive_leaves_nothing_behind(small):
    archive = pack(write_imdb(small / "source"), small / "reviews.tar.gz", "gz")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DatasetDamaged, match="reviews.tar.gz can't be unpacked .*Copy or download it again"):
        text.find_imdb(path=archive)
    assert [path.name for path in paths.cache_dir().iterdir() if not path.name.endswith(".lock")] == []


def test_other_archives_are_refused(small):
    (small / "notes.txt").write_text("not an archive")
    with pytest.raises(DatasetDamaged, match="notes.txt can't be unpacked"):
        text.find_imdb(path=small / "notes.txt")
    (small / "other").mkdir()
    with pytest.raises(DatasetDamaged, match="holds no folder aclImdb"):
        text.find_imdb(path=pack(small / "other", small / "other.tar.gz", "gz"))


def test_half_unpacked_folders_are_refused(small):
    folder = write_imdb(small)
    for file in list((folder / "test/neg").iterdir())[:3]:
        file.unlink()
    with pytest.raises(DatasetDamaged, match=r"test/neg: 37 text files, and each folder must hold 40"):
        datasets.load("imdb", path=folder)
    for file in (folder / "train/pos").iterdir():
        file.unlink()
    (folder / "train/pos").rmdir()
    with pytest.raises(DatasetDamaged, match="train/pos: 0, test/neg: 37"):
        text.find_imdb(path=folder)  # damage is never passed over


def test_an_unreadable_review_is_named(small):
    folder = write_imdb(small)
    (folder / "train/pos/3_7.txt").write_bytes(b"\xff\xfe broken")
    with pytest.raises(DatasetDamaged, match="train/pos/3_7.txt is unreadable"):
        datasets.load("imdb", path=folder)


def test_missing_data_says_what_to_do(small):
    with pytest.raises(DatasetMissing, match="IMDB is not cached.*CLORA_IMDB"):
        datasets.load("imdb")
    with pytest.raises(DatasetMissing, match="neither a folder nor an archive"):
        datasets.load("imdb", path=small / "absent")
    with pytest.warns(UserWarning, match="'auto' takes synthetic reviews"):
        assert datasets.resolve("auto", ("imdb", "synthetic")) == "synthetic"


def test_what_is_here_is_found_without_unpacking(small, monkeypatch):
    with pytest.raises(DatasetMissing):
        text.find_imdb(download=False)
    folder = write_imdb(small)
    archive = pack(folder, small / "reviews.tar.gz", "gz")
    assert text.find_imdb(download=False, path=archive) == archive
    assert [path for path in paths.cache_dir().iterdir() if path.is_dir()] == []
    monkeypatch.setenv(text.VARIABLE, str(archive))
    row = datasets.status().set_index("dataset").loc["imdb"]
    assert (row["state"], row["path"], row["bytes"]) == ("packed", str(archive), archive.stat().st_size)
    monkeypatch.setenv(text.VARIABLE, str(folder))
    row = datasets.status().set_index("dataset").loc["imdb"]
    assert (row["state"], row["path"]) == ("here", str(folder)) and row["bytes"] > 4 * COUNT
    next((folder / "train/pos").iterdir()).unlink()
    assert datasets.status().set_index("dataset").loc["imdb", "state"] == "damaged"


def test_the_real_sizes():
    assert text.COUNT == 12_500 and text.SIZES["imdb"] == (20_000, 5_000, 25_000)


@pytest.mark.parametrize("fraction", [0.0, -1, 1.5, "half", True])
def test_impossible_fractions(fraction):
    with pytest.raises(ValueError, match="`fraction` must"):
        datasets.load("synthetic", fraction=fraction)


def test_unknown_name():
    with pytest.raises(ValueError, match="`dataset` must be one of .*Did you mean 'imdb'"):
        datasets.load("imbd")


def test_html_line_breaks_become_spaces():
    assert text.clean("one<br /><br/>two<BR>three <b>four</b>") == "one  two three <b>four</b>"


# Generated reviews


def test_synthetic_reviews_are_fixed_stratified_and_say_what_they_are():
    reviews = datasets.load("synthetic")
    assert (len(reviews.x_train), len(reviews.x_val), len(reviews.x_test)) == (400, 100, 200)
    assert reviews.x_train == datasets.load("synthetic").x_train
    assert reviews.y_val.mean() == 0.5
    assert "synthetic" in reviews.title and "no real data" in reviews.title


def test_synthetic_reviews_can_be_learned_but_not_by_counting_good_words():
    reviews = datasets.load("synthetic")
    words = np.array([[sum(line.count(w) for w in group) for group in (text._GOOD, text._BAD)]
                      for line in reviews.x_test])  # fmt: skip
    naive = np.mean((words[:, 0] > words[:, 1]) == reviews.y_test)
    assert 0.6 < naive < 0.95  # negations are what is left


def test_the_vocabulary_knows_all_words():
    vocabulary = text.synthetic_vocabulary()
    assert len(set(vocabulary)) == len(vocabulary)
    used = {word for line in datasets.load("synthetic").x_train for word in line.split()}
    assert used <= set(vocabulary)


# Tokens

hub = pytest.importorskip("keras_hub", reason="needs the extra 'text' (Python 3.11 or later)")


def tokenizer(words=WORDS):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return hub.models.BertTokenizer([*special, *words, "##s", "<", ">", "br", "/"], lowercase=True,
                                    strip_accents=True)  # fmt: skip


def test_tokens_are_those_of_the_preprocessor(small):
    texts = ["The film was GOOD!", "bad film", "films and actors"]
    found = tokens.tokenise(texts, tokenizer(), 8)
    expected = hub.models.BertTextClassifierPreprocessor(tokenizer(), sequence_length=8)(texts)
    for name in ("token_ids", "segment_ids", "padding_mask"):
        np.testing.assert_array_equal(found[name], np.asarray(expected[name]).astype("int32"))
        assert found[name].dtype == np.int32 and found[name].shape == (3, 8)
    assert found["padding_mask"].sum() > 0


@pytest.mark.parametrize(
    "line, words",
    [
        ("", []),
        ("   ", []),
        ("film " * 500, ["film"] * 6),  # cut
        ("영화 bad", ["[UNK]", "bad"]),
        ("фильм, 映画", ["[UNK]"] * 4),  # each Chinese character is a word, the comma too
        ("fïlm", ["film"]),
        ("good<br />bad", ["good", "<", "br", "/", ">", "bad"]),
        (text.clean("good<br />bad"), ["good", "bad"]),
        ("film\x00 \x07 good", ["film", "good"]),
        ("🎬 good", ["[UNK]", "good"]),
    ],
    ids=[
        "empty",
        "blank",
        "long",
        "Korean",
        "Russian, Chinese",
        "accents",
        "HTML",
        "clean",
        "control",
        "emoji",
    ],
)
def test_odd_texts(small, line, words):
    vocabulary = tokenizer()
    ids = tokens.tokenise([line], vocabulary, 8)
    pieces = [vocabulary.get_vocabulary()[i] for i in ids["token_ids"][0][ids["padding_mask"][0] == 1]]
    assert pieces == ["[CLS]", *words, "[SEP]"]


def test_tokens_are_cached_by_vocabulary_length_and_texts(small, monkeypatch):
    calls = []
    real = tokens._token_ids
    monkeypatch.setattr(tokens, "_token_ids", lambda *arguments: calls.append(1) or real(*arguments))
    first = tokens.tokenise(["good film"], tokenizer(), 8)
    again = tokens.tokenise(["good film"], tokenizer(), 8)
    assert len(calls) == 1
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
    tokens.tokenise(["good film"], tokenizer(), 9)
    tokens.tokenise(["bad film"], tokenizer(), 8)
    tokens.tokenise(["good", "film"], tokenizer(), 8)
    tokens.tokenise(["good film"], tokenizer(WORDS[::-1]), 8)
    assert len(calls) == 5
    assert len(list(paths.cache_dir().glob("tokens-*.npz"))) == 5


def test_a_damaged_cache_is_made_anew(small):
    first = tokens.tokenise(["good film"], tokenizer(), 8)
    (file,) = paths.cache_dir().glob("tokens-*.npz")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning, match="is damaged"):
        again = tokens.tokenise(["good film"], tokenizer(), 8)
    np.testing.assert_array_equal(again["token_ids"], first["token_ids"])
    tokens.tokenise(["good film"], tokenizer(), 8)  # without a warning now


def test_impossible_tokens(small):
    for texts, length in ((["good"], 2), ([], 8)):
        with pytest.raises(ValueError, match="`length` must be at least 3"):
            tokens.tokenise(texts, tokenizer(), length)
    with pytest.raises(ValueError, match="`length` must be an integer"):
        tokens.tokenise(["good"], tokenizer(), 8.5)


def test_pieces_hold_every_token_once():
    vocabulary = text.synthetic_vocabulary()
    tokenizer = hub.models.BertTokenizer(vocabulary, lowercase=True, strip_accents=True)
    line = "the film was great . " * 20
    ids, owners = tokens.pieces([line, "great"], tokenizer, 24)
    whole = np.asarray(tokenizer(line))
    assert owners.tolist() == [0, 0, 0, 0, 1]
    assert ids.shape == (5, 24)  # 100 tokens in pieces of 22, the last of 12 is too short; one word
    assert (ids[:, 0] == tokenizer.cls_token_id).all()
    np.testing.assert_array_equal(ids[:4, 1:-1].ravel(), whole[:88])
    assert (ids[:4, -1] == tokenizer.sep_token_id).all()
    assert ids[4, :4].tolist() == [
        tokenizer.cls_token_id,
        vocabulary.index("great"),
        tokenizer.sep_token_id,
        0,
    ]
