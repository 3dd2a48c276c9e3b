"""The review widget: what it shows is what the nets say, and what can't be read becomes a message."""

import numpy as np
import pytest

from clora_lab.course import attention, widgets
from clora_lab.lab.data import tokens
from clora_lab.lab.figures import style

pytest.importorskip("keras_hub")
from test_attention import LENGTH, tiny_classifier  # noqa: E402


@pytest.fixture(scope="module")
def nets():
    return tiny_classifier(0), tiny_classifier(1)


@pytest.fixture
def explorer(nets):
    return widgets.review_explorer(*nets, examples=["a great film .", "the plot was awful ."])


def test_the_numbers_are_the_nets(nets, explorer):
    explorer.controls["review"].value = "nobody could call the cast dull ."
    names = ("dense", "compressed")
    table = attention.predictions(
        dict(zip(names, nets, strict=True)),
        ["nobody could call the cast dull ."],
        nets[0].preprocessor.tokenizer,
        LENGTH,
    )
    dense, small = table.loc[0, "dense"], table.loc[0, "compressed"]
    gap = f"{100 * (small - dense):+.1f}".replace("-", "−")
    for part in (f"{100 * dense:.1f}%", f"{100 * small:.1f}%", f"{gap} points", "nobody could call"):
        assert part in explorer.text.value
    assert ("disagree" in explorer.message.value) == ((dense > 0.5) != (small > 0.5))
    assert bytes(explorer.image.value[:4]) == b"\x89PNG"


def test_an_example_is_shown_until_something_is_typed(explorer):
    first = explorer.image.value
    assert "great film" in explorer.text.value
    explorer.controls["example"].value = "the plot was awful ."
    assert explorer.image.value != first and "awful" in explorer.text.value
    explorer.controls["review"].value = "boring music"
    assert "boring music" in explorer.text.value and "awful" not in explorer.text.value
    explorer.reset_button.click()
    assert explorer.image.value == first


def test_cut_and_unknown_words_are_told(explorer):
    explorer.controls["review"].value = "the film was great . " * 10
    assert f"36 of 50 tokens are cut off: the nets read {LENGTH - 2}" in explorer.message.value
    explorer.controls["review"].value = "영화 film"
    assert "not in the vocabulary" in explorer.message.value and "<i>[UNK]</i>" in explorer.text.value


def test_markup_is_escaped_and_line_breaks_are_no_tokens(explorer):
    explorer.controls["review"].value = "good<br /><br />film <script>"
    assert "<script>" not in explorer.text.value and "br" not in explorer.text.value.split("Seen:")[1].split()


def test_a_text_without_a_word_is_a_message(nets):
    tokenizer = nets[0].preprocessor.tokenizer
    with pytest.raises(ValueError, match="Type a sentence"):
        widgets.tokens("  ", tokenizer, 16)
    with pytest.raises(ValueError, match="`length`"):
        widgets.tokens("film", tokenizer, 2)
    explorer = widgets.review_explorer(*nets, examples=["", "a film ."])
    assert 'role="alert"' in explorer.message.value and "Type a sentence" in explorer.message.value
    explorer.controls["review"].value = "a film ."
    assert explorer.message.value == "" or "disagree" in explorer.message.value


def test_tokens_of_a_review(nets):
    table = widgets.tokens("The film was great.", nets[0].preprocessor.tokenizer, 5)
    assert table["token"].tolist() == ["the", "film", "was", "great", "."]
    assert table["seen"].tolist() == [True, True, True, False, False]
    inputs = tokens.tokenise(["The film was great."], nets[0].preprocessor.tokenizer, 5, cached=False)
    assert inputs["padding_mask"].sum() == table["seen"].sum() + 2


def test_still_picture(nets):
    fig = widgets.review_explorer_static(*nets, "what a clever script !", title="On generated reviews")
    said = style.alt_text(fig)
    assert said.startswith("On generated reviews") and "dense" in said and "compressed" in said
    shown = [text_.get_text() for text_ in fig.axes[0].texts]
    numbers = [float(each.rstrip("%")) for each in shown]
    table = attention.predictions(
        {"a": nets[0], "b": nets[1]}, ["what a clever script !"], nets[0].preprocessor.tokenizer, LENGTH
    )
    np.testing.assert_allclose(numbers, 100 * table.loc[0, ["a", "b"]].astype(float), atol=0.06)


def test_what_must_be_given(nets):
    tokenizer = nets[0].preprocessor.tokenizer
    bare = tiny_classifier(2)
    bare.preprocessor = None
    with pytest.raises(ValueError, match="`tokenizer` and `length`"):
        widgets.review_explorer(bare, nets[1])
    assert widgets.review_explorer(bare, nets[1], tokenizer, LENGTH).text.value
    with pytest.raises(ValueError, match="two different names"):
        widgets.review_explorer(*nets, names=("net", "net"))
    with pytest.raises(ValueError, match="`examples`"):
        widgets.review_explorer(*nets, examples=[])
