"""Widget 6: type a review, and see what the dense and the compressed net make of it.

A text that can't be read becomes a message.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping, Sequence

import ipywidgets
import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clora_lab.course import attention
from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    dropdown,
    html_table,
    make_control,
    still_figure,
    write_title,
)
from clora_lab.lab.data import text
from clora_lab.lab.figures import style
from clora_lab.lab.figures.style import FAINT, INK, RED
from clora_lab.lab.frames import per_cent, signed

EXAMPLES = (
    "what a great film ! the cast was superb .",
    "the plot was not boring at all .",
    "nobody could call the music wonderful .",
)
HEIGHT = 2.3
COLORS = (INK, RED)
HATCHES = ("", "///")
SHOWN = 60  # tokens that are listed below the picture


def tokens(review: str, tokenizer, length: int) -> pd.DataFrame:
    """What a net of sequence length `length` gets to see of a review, and what of it it does not know.

    Args:
        review: raw text.
        tokenizer: a `keras_hub.models.BertTokenizer`.
        length: of the sequences, in tokens, [CLS] and [SEP] included.

    Returns:
        A row a token of the whole text, without [CLS] and [SEP]: token, seen (False: cut off), known (False:
        it is not in the vocabulary and became [UNK]).

    Raises:
        ValueError: the text holds no token, or a length below 3.

    Example:
        >>> tokens("A great film.", tokenizer, 4)["seen"].tolist()  # doctest: +SKIP
        [True, True, False, False]
    """
    if not isinstance(length, int) or length < 3:
        raise ValueError(f"`length` must be an integer of at least 3. Received: {length!r}.")
    ids = np.asarray(tokenizer(text.clean(str(review)))).ravel()
    if not len(ids):
        raise ValueError(
            f"`review` must hold a word. Received: {str(review)[:40]!r}. Type a sentence or two."
        )
    names = [tokenizer.id_to_token(int(each)) for each in ids]
    frame = pd.DataFrame({"token": names, "seen": np.arange(len(ids)) < length - 2})
    return frame.assign(known=[name != "[UNK]" for name in names])


def _review_view(fig, nets, tokenizer, length, title, review="", example=""):
    review = review.strip() or example
    seen = tokens(review, tokenizer, length)
    predicted = attention.predictions(nets, [review], tokenizer, length).iloc[0]
    values = [predicted[name] for name in nets]
    ax = fig.add_axes((0.16, 0.27, 0.8, 0.5))
    for place, (value, color, hatch) in enumerate(zip(values, COLORS, HATCHES, strict=True)):
        look = {"color": color, "alpha": 0.75, "hatch": hatch, "edgecolor": "white"}
        ax.barh(place, value - 0.5, 0.62, left=0.5, **look)
        side = {"ha": "left", "xytext": (4, 0)} if value >= 0.5 else {"ha": "right", "xytext": (-4, 0)}
        ax.annotate(
            per_cent(value), (value, place), textcoords="offset points", va="center", weight="bold",
            annotation_clip=False, **side,
        )  # fmt: skip
    ax.axvline(0.5, color=FAINT, linewidth=1.2)
    ax.set_yticks(range(len(nets)), list(nets))
    ax.invert_yaxis()
    ax.set(xlim=(-0.1, 1.1), xlabel="Probability of “positive” (%); the bar begins at 50%")
    ax.set_xticks(np.linspace(0, 1, 5))
    style.percent_axis(ax.xaxis)
    ax.grid(axis="y", visible=False)
    write_title(fig, title)
    said = [f"{name} {per_cent(value)} positive" for name, value in zip(nets, values, strict=True)]
    fig.alt_text = f"{title}, a review of {len(seen)} tokens: {'; '.join(said)}."
    return Reading(_review_text(nets, values, seen), _review_remark(nets, values, seen, length))


def _verdict(value: float) -> str:
    return "positive" if value > 0.5 else "negative"


def _review_text(nets: Sequence[str], values: Sequence[float], seen: pd.DataFrame) -> str:
    rows = [
        {"net": name, "says": _verdict(value), "positive": per_cent(value)}
        for name, value in zip(nets, values, strict=True)
    ]
    gap = f"{signed(100 * (values[1] - values[0]), 1)} points"
    rows.append({"net": "difference", "says": "", "positive": gap})
    shown = seen[seen["seen"]].head(SHOWN)
    marked = [
        html.escape(token) if known else f"<i>{html.escape(token)}</i>"
        for token, known in zip(shown["token"], shown["known"], strict=True)
    ]
    more = " …" if seen["seen"].sum() > SHOWN else ""
    return f"{html_table(pd.DataFrame(rows))}<p>Seen: {' '.join(marked)}{more}</p>"


def _review_remark(nets, values, seen: pd.DataFrame, length: int) -> str:
    remarks = []
    if _verdict(values[0]) != _verdict(values[1]):
        remarks.append(f"The nets disagree: {' and '.join(nets)} give different answers.")
    cut, unknown = int((~seen["seen"]).sum()), int((~seen["known"] & seen["seen"]).sum())
    if cut:
        remarks.append(f"The last {cut} of {len(seen)} tokens are cut off: the nets read {length - 2}.")
    if unknown:
        remarks.append(f"Tokens that are not in the vocabulary ([UNK]): {unknown}.")
    return " ".join(remarks)


def _parts(dense, small, tokenizer, length, names) -> dict:
    """What the view needs, checked; tokeniser and length from the Task's preprocessor if not given."""
    preprocessor = getattr(dense, "preprocessor", None)
    if tokenizer is None and preprocessor is not None:
        tokenizer = preprocessor.tokenizer
    if length is None and preprocessor is not None:
        length = preprocessor.sequence_length
    if tokenizer is None or length is None:
        raise ValueError(
            "`tokenizer` and `length` must be given where `dense` has no preprocessor: those that the nets "
            "were trained with."
        )
    if len(set(names)) != 2:
        raise ValueError(f"`names` must be two different names. Received: {tuple(names)!r}.")
    return {"nets": dict(zip(names, (dense, small), strict=True)), "tokenizer": tokenizer, "length": length}


def review_explorer(
    dense: keras.Model,
    small: keras.Model,
    tokenizer=None,
    length: int | None = None,
    examples: Sequence[str] = EXAMPLES,
    names: Sequence[str] = ("dense", "compressed"),
    title: str = "What the two nets make of a review",
) -> Explorer:
    """Widget: type a review, or choose one; both nets' probabilities side by side, and their difference.

    Below the picture stand the tokens that the nets read. A remark says when they disagree, when the text was
    cut, and when words are not in the vocabulary.

    Args:
        dense, small: classifiers with two logits (negative, positive): a `BertTextClassifier`, or what takes
            its token ids.
        tokenizer, length: those of training; by default from the preprocessor of `dense`.
        examples: reviews to choose from; the first is shown at first.
        names: of the two nets.
        title: of the picture; say there what the nets were trained on.

    Raises:
        ValueError: no examples, no tokeniser, or names that are equal.

    Example:
        >>> review_explorer(classifier, cl.finalize(compressed))  # doctest: +SKIP
    """
    if not examples:
        raise ValueError("`examples` must hold at least one review. Received: none.")
    view = functools.partial(_review_view, title=title, **_parts(dense, small, tokenizer, length, names))
    area = make_control(
        ipywidgets.Textarea, "your review", "", placeholder="type here, then click beside it",
        continuous_update=False, rows=3,
    )  # fmt: skip
    options = {_shortened(each): each for each in examples}
    choice = dropdown("or an example", next(iter(options.values())), options)
    return Explorer(view, {"review": area, "example": choice}, height=HEIGHT)


def _shortened(review: str) -> str:
    return review if len(review) <= 60 else f"{review[:57]} …"


def review_explorer_static(
    dense: keras.Model,
    small: keras.Model,
    review: str = EXAMPLES[0],
    tokenizer=None,
    length: int | None = None,
    names: Sequence[str] = ("dense", "compressed"),
    title: str = "What the two nets make of a review",
) -> Figure:
    """The picture of `review_explorer` for one review, where no widget can run.

    Args:
        review: raw text.
        dense, small, tokenizer, length, names, title: as in `review_explorer`.

    Raises:
        ValueError: as `review_explorer`, or a review without a word.

    Example:
        >>> fig = review_explorer_static(classifier, small, "A wonderful film.")  # doctest: +SKIP
    """
    parts: Mapping = _parts(dense, small, tokenizer, length, names)
    return still_figure(
        functools.partial(_review_view, title=title), HEIGHT, **parts, review=review, example=review
    )
