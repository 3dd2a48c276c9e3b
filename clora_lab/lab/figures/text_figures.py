"""BERT on reviews as figures: where its parameters are, what attends to what, slides 21 and 22."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from clora_lab import _checks
from clora_lab.lab import names
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.figures import marks
from clora_lab.lab.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    new_figure,
    set_title,
    shared_legend,
    styled,
)
from clora_lab.lab.frames import MissingResults, require
from clora_lab.lab.names import METHODS, method_label
from clora_lab.lab.nets import bert
from clora_lab.lab.nets import registry as nets
from clora_lab.slides import published, shapes
from clora_lab.studies import overview

BERTS = {"bert_tiny": shapes.BERT_TINY, "bert_small": shapes.BERT_SMALL}
PART_STYLES = {  # colour, hatch
    "embeddings": (GREY, ""),
    "attention": (BLUE, "///"),
    "feed-forward": (ORANGE, "..."),
    "layer norms": (PINK, ""),
    "pooler": (GREEN, "xx"),
}
SCOPES = {  # what is compressed, in words
    "attention": "attention",
    "encoder": "attention and feed-forward",
    bert.WIDER: "attention, wider feed-forward",
    "model": "attention, feed-forward, pooler and token embedding",
}
SLIDES_EPOCHS = 10  # slide 20
# What one table may not mix; the dense net has no scope and its own number of epochs.
SETTING = ("dataset", "model", "start", "variant", "sequence", "fraction", "dense_epochs")
SETTING_COMPRESSED = (*SETTING, "scope", "epochs")
UNTRAINED = ("dense", "svd")  # what has no epochs of compression
BELOW = (*names.BASELINES, *names.REFERENCES)  # the lines that the slides lack
WHOSE = {"published": "slides", "measured": "ours"}  # short, since the table is full
# Ways to count what remains, with the heads of their columns.
RATIOS = {"ratio": "Slides'\nratio", "ratio_encoder": "Of the\nblocks", "ratio_model": "Of the\nmodel"}
MAX_TOKENS = 24  # on an axis; more could not be read


# --- where the parameters are -------------------------------------------------------------------


def parts(model: str, rank: int | None = None, scope: str = "attention", bias: bool = True) -> pd.Series:
    """Parameters of a BERT backbone by part, as published or with some parts as pairs of a rank.

    Args:
        model: "bert_tiny" or "bert_small".
        rank: of the pairs; None for the original.
        scope: what the pairs stand for, see `SCOPES`: "attention" (the slides), "encoder" (the feed-forward
            halves too; "encoder_ff_wide" at a rank of their own), or "model" (those, the pooler and the token
            embedding).
        bias: whether a pair keeps a bias.

    Returns:
        Indexed by part: embeddings, attention, feed-forward, layer norms (of the blocks), pooler.

    Raises:
        ValueError: another model or scope, or a rank below 1.

    Example:
        >>> int(parts("bert_tiny").sum()), int(parts("bert_tiny", rank=16).sum())
        (4385920, 4287616)
    """
    bert = BERTS[_checks.one_of("model", model, BERTS)]
    _checks.one_of("scope", scope, SCOPES)
    groups = {
        "embeddings": bert.embeddings,
        "attention": bert.attention,
        "feed-forward": tuple(layer for layer in bert.encoder if layer.kind == "Dense"),
        "layer norms": bert.norms,
    }
    counts = {name: shapes.total(layers) for name, layers in groups.items()}
    counts["pooler"] = bert.pooler.parameters
    if rank is None:
        return pd.Series(counts, name=model)
    counts["attention"] = shapes.remaining(groups["attention"], rank, bias)
    if scope != "attention":
        wide = bert.feed_forward_rank(scope, rank)
        counts["feed-forward"] = shapes.remaining(groups["feed-forward"], wide, bias)
    if scope == "model":
        tokens, *others = bert.embeddings
        # A table has no bias to fade, but its pair can have a new one, as wide as the vectors.
        counts["embeddings"] = shapes.total(others) + tokens.pair(rank) + bias * bert.hidden
        counts["pooler"] = shapes.remaining([bert.pooler], rank, bias)
    return pd.Series(counts, name=model)


@styled
def where_parameters(rank: int = 16, scope: str = "attention") -> Figure:
    """BERT-Tiny's and BERT-Small's parameters by part, before and after, in percent of the original.

    Args:
        rank: of the pairs.
        scope: as in `parts`.

    Raises:
        ValueError: as `parts`.

    Example:
        >>> where_parameters(16).alt_text[-59:]
        'of 28,763,648, attention 14.6% before, then 86.3% are left.'
    """
    fig = new_figure(3.5)
    ax = fig.subplots()
    labels, said = [], []
    for model in BERTS:
        before, after = parts(model), parts(model, rank, scope)
        whole = before.sum()
        for kind, counts in (("before", before), (f"rank {rank}", after)):
            place, left = len(labels), 0.0
            for name, count in counts.items():
                share = 100 * count / whole
                color, hatch = PART_STYLES[name]
                ax.barh(
                    place, share, 0.66, left=left, color=color, alpha=0.75, hatch=hatch, edgecolor="white",
                    label=name,
                )  # fmt: skip
                if share > 8:
                    look = {"ha": "center", "va": "center", "fontsize": 9}
                    look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
                    ax.text(left + share / 2, place, f"{share:.1f}", **look)
                left += share
            ax.text(left + 0.8, place, f"{left:.1f}%", va="center", weight="bold")
            labels.append(f"{nets.label(model)}\n{kind}")
        said.append(
            f"{nets.label(model)} of {whole:,}, attention {100 * before['attention'] / whole:.1f}% before, "
            f"then {100 * after.sum() / whole:.1f}% are left"
        )
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set(xlabel="Parameters (% of the original backbone)", xlim=(0, 112))
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="y", visible=False)
    shared_legend(fig, [ax], ncols=3)
    title = f"Where BERT's parameters are, before and after {SCOPES[scope]} at rank {rank}"
    set_title(fig, title, "Counted from the shapes; parts below 8% without a number")
    fig.alt_text = f"{title}: {'; '.join(said)}."
    return fig


# --- what attends to what -----------------------------------------------------------------------


@styled
def attention_maps(
    maps: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    heads: Sequence[tuple[int, int]],
    title: str,
    subtitle: str = "",
) -> Figure:
    """What attends to what in one text: a column a net, a line a head; dark is much.

    Args:
        maps: name of the net -> shape (blocks, heads, T, T), T at least the number of tokens.
        tokens: of the text, [CLS] and [SEP] included, without padding; at most `MAX_TOKENS`.
        heads: (block, head) of each line; at most four.
        title, subtitle: texts.

    Raises:
        ValueError: no maps, maps of several shapes, a head that is not there, or too many tokens or heads.

    Example:
        >>> uniform = np.full((1, 1, 3, 3), 1 / 3)
        >>> fig = attention_maps({"dense": uniform}, ["[CLS]", "good", "[SEP]"], [(0, 0)], "Attention")
    """
    arrays = {name: np.asarray(array) for name, array in maps.items()}
    found = {array.shape for array in arrays.values()}
    shape = found.pop() if len(found) == 1 else ()
    if len(shape) != 4 or len(arrays) > 3:
        raise ValueError(
            "`maps` must hold one to three arrays of one shape (blocks, heads, T, T). Received the shapes: "
            f"{[array.shape for array in arrays.values()]}. Choose one text."
        )
    count = len(tokens)
    if not 1 <= count <= min(MAX_TOKENS, shape[-1]):
        raise ValueError(
            f"`tokens` must be 1 to {min(MAX_TOKENS, shape[-1])} tokens. Received: {count}. "
            "Take a shorter text."
        )
    wrong = [head for head in heads if not (0 <= head[0] < shape[0] and 0 <= head[1] < shape[1])]
    if wrong or not 1 <= len(heads) <= 4:
        raise ValueError(
            f"`heads` must be one to four (block, head) below {shape[:2]}. Received: {list(heads)}."
        )
    side = min(0.16 * count + 0.25, 4.75 / len(arrays))  # inches; names, labels and scale take the rest
    fig = new_figure(0.75 + len(heads) * (side + 0.3) + 0.75)
    axes = fig.subplots(len(heads), len(arrays), squeeze=False, sharex=True, sharey=True)
    limit = max(
        array[block, head, :count, :count].max() for array in arrays.values() for block, head in heads
    )
    said = []
    for line, (block, head) in zip(axes, heads, strict=True):
        for ax, (name, array) in zip(line, arrays.items(), strict=True):
            shown = array[block, head, :count, :count]
            look = {"cmap": "Blues", "vmin": 0, "vmax": limit, "interpolation": "nearest"}
            image = ax.imshow(shown, **look)
            ax.set_title(f"{name}: block {block}, head {head}")
            ax.grid(visible=False)
            query, key = np.unravel_index(shown.argmax(), shown.shape)
            said.append(
                f"{name}, block {block}, head {head}: most, {shown.max():.2f}, from {tokens[query]!r} to "
                f"{tokens[key]!r}"
            )
    for ax in axes[:, 0]:
        ax.set_yticks(range(count), tokens)
        ax.set_ylabel("token that looks")
    for ax in axes[-1]:
        ax.set_xticks(range(count), tokens, rotation=90)
        ax.set_xlabel("token looked at")
    bar = fig.colorbar(image, ax=axes, shrink=0.6, label="Share of a token's attention (%)")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    set_title(fig, title, subtitle)
    fig.alt_text = f"{title}, {count} tokens: {'; '.join(said)}."
    return fig


# --- the study ----------------------------------------------------------------------------------


def settings(rows: pd.DataFrame) -> pd.DataFrame:
    """The settings that recorded rows hold: what may not be mixed in one table, and how many runs each has.

    Args:
        rows: result rows of the study "bert".

    Returns:
        A row a setting, the largest first: `SETTING_COMPRESSED`, runs, ranks, seeds (numbers of).

    Raises:
        MissingResults: no rows of compressed nets, or a column is missing.

    Example:
        >>> settings(rows)[["model", "scope", "runs"]]  # doctest: +SKIP
    """
    require(rows, "rows", (*SETTING_COMPRESSED, "method", "rank", "seed", "config"))
    own = rows[~rows["method"].isin(UNTRAINED)]
    if own.empty:
        raise MissingResults(
            f"`rows` must hold trained compressed nets. Received: {sorted(set(rows['method']))}."
        )
    grouped = own.groupby(list(SETTING_COMPRESSED), sort=False)
    table = grouped[["config", "rank", "seed"]].nunique().set_axis(["runs", "ranks", "seeds"], axis=1)
    return table.sort_values("runs", ascending=False, kind="stable").reset_index()


def choose(rows: pd.DataFrame, **wanted) -> pd.DataFrame:
    """The rows of the largest setting that has the wanted values, with the dense nets it started from.

    Args:
        rows: result rows of the study "bert".
        **wanted: values of columns of `SETTING_COMPRESSED`, for instance model="bert_tiny".

    Raises:
        MissingResults: there is no such setting; the message lists those that there are.

    Example:
        >>> tiny = choose(rows, model="bert_tiny", scope="attention")  # doctest: +SKIP
    """
    table = settings(rows)
    for column, value in wanted.items():
        _checks.one_of("wanted", column, SETTING_COMPRESSED)
        table = table[table[column] == value]
    if table.empty:
        found = settings(rows)[["model", "start", "variant", "scope", "sequence"]].to_dict("records")
        raise MissingResults(f"`rows` must hold a setting with {wanted}. Received: {found[:8]}.")
    first = table.iloc[0]

    def alike(columns):
        return np.logical_and.reduce([rows[column] == first[column] for column in columns])

    dense, svd = rows["method"] == "dense", rows["method"] == "svd"
    chosen = (dense & alike(SETTING)) | (svd & alike((*SETTING, "scope")))
    chosen |= ~dense & ~svd & alike(SETTING_COMPRESSED)
    return rows[chosen].reset_index(drop=True)


def conditions(rows: pd.DataFrame) -> str:
    """How rows of one setting were made, in words and from the rows alone; for the head of every table.

    Args:
        rows: by `choose`.

    Raises:
        ValueError: rows of several settings.
        MissingResults: no rows.

    Example:
        >>> conditions(rows)  # doctest: +SKIP
        'BERT-Tiny (pretrained here on IMDB) on IMDB; 20,000 training and 25,000 test reviews of ...'
    """
    first = _one_setting(rows)
    dense, own = rows[rows["method"] == "dense"], rows[~rows["method"].isin(UNTRAINED)]
    counts = [f"dense net at most {first['dense_epochs']}"] if len(dense) else []
    counts += [f"each compressed net {own['epochs'].iloc[0]}"] if len(own) else []
    reduced = min([first["dense_epochs"], *own["epochs"]]) < SLIDES_EPOCHS
    seeds = rows["seed"].nunique()
    words = [
        f"{nets.title(first['model'], first['start'])} on {_data(first)}",
        f"{first['train_size']:,} training and {first['test_size']:,} test reviews of "
        f"{first['sequence']} tokens",
        f"epochs: {', '.join(counts)}" + (f" (the slides: {SLIDES_EPOCHS})" if reduced else ""),
        f"recipe '{first['variant']}'{_taught(own)}",
        "one seed" if seeds == 1 else f"up to {seeds} seeds",
    ]
    wide = _wider_scope(own)
    if wide:
        words.insert(1, f"{SCOPES[wide]} compressed")
    if wide == bert.WIDER:
        words.insert(2, f"feed-forward at {bert.WIDER_RANK:g} times the rank")
    return "; ".join(words)


def _taught(rows: pd.DataFrame) -> str:
    """What rows of compressed nets learned from, where it was not from the labels alone."""
    share = overview.taught(rows)
    if not share:
        return ""
    return f" (taught by the dense net{'' if share == 1.0 else f', {share:.0%} of the loss'})"


def _wider_scope(rows: pd.DataFrame) -> str | None:
    """What rows of one setting compress beyond the slides' attention: a key of `SCOPES`, or None."""
    return next((scope for scope in SCOPES if scope != "attention" and (rows["scope"] == scope).any()), None)


def _one_setting(rows: pd.DataFrame) -> pd.Series:
    """The first row, if all are of one setting."""
    require(rows, "rows", ("method",))
    own = rows[~rows["method"].isin(UNTRAINED)]
    for part, columns in ((rows, (*SETTING, "train_size", "test_size")), (own, ("scope", "epochs"))):
        require(rows, "rows", columns)  # that is also: there are rows
        for name in columns:
            values = part[name].drop_duplicates().tolist()
            if len(values) > 1:
                raise ValueError(
                    f"`rows` must hold one `{name}`. Received several: {values}. Select them with choose()."
                )
    return rows.iloc[0]


def comparable(rows: pd.DataFrame) -> bool:
    """Whether the slides have a table of the same data, model and scope to set beside rows of one setting."""
    own = rows[rows["method"] != "dense"]
    same = set(own["model"]) <= set(BERTS) and set(own["dataset"]) == {"imdb"}
    return bool(same and set(own["scope"]) == {"attention"})


def compare(rows: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Slide 21's or 22's table beside ours, and the honest ratios, by `published.beside`.

    Args:
        rows: of one setting, see `choose`.
        split: whose accuracy, "test" or "validation".

    Returns:
        The columns of `published.beside`. Where the slides have no such table
        (`comparable`), the published columns are empty and there are no rows but the measured ones.

    Raises:
        ValueError: rows of several settings.
        MissingResults: no accuracy of the split.

    Example:
        >>> compare(rows)[["rank", "method", "published_accuracy", "measured_mean"]]  # doctest: +SKIP
    """
    model = _one_setting(rows)["model"]
    if not ((rows["metric"] == "accuracy") & (rows["split"] == split)).any():
        raise MissingResults(f"`rows` must hold accuracies of the split {split!r}. Received: none.")
    table = published.beside(rows, model if model in BERTS else "bert_tiny", split)
    if not comparable(rows):
        table = table[table["measured_mean"].notna()].reset_index(drop=True)
        table.loc[:, [column for column in table if column.startswith("published")]] = np.nan
    return table


def comparison_table(rows: pd.DataFrame, split: str = "test") -> Figure:
    """Slide 21 or 22, typeset: published and measured, three ratios, and what the slides lack below.

    Args:
        rows: of one setting, see `choose`.
        split: whose accuracy.

    Raises:
        ValueError, MissingResults: as `compare`.

    Example:
        >>> fig = comparison_table(choose(rows, model="bert_tiny"))  # doctest: +SKIP
    """
    table = compare(rows, split)
    first = rows.iloc[0]
    measured = table[table["measured_mean"].notna()]
    others = [method for method in BELOW if (measured["method"] == method).any()]

    def line(kind, part, methods, start, **more):
        part = part.set_index("method")
        columns = ("published_accuracy", "published_sd")
        columns = columns if kind == "published" else ("measured_mean", "measured_sd")
        cells = [_plus_minus(part, method, *columns) for method in methods]
        best = part.reindex(methods)[columns[0]].round(2)
        bold = [
            len(start) + 1 + index
            for index, value in enumerate(best)
            if value == best.max() and best.count() > 1
        ]
        return {"cells": [*start, WHOSE[kind], *cells], "bold": bold, **more}

    lines, dense = [], table[table["method"] == "dense"]
    for kind, column in (("published", "published_accuracy"), ("measured", "measured_mean")):
        if len(dense) and np.isfinite(dense[column].iloc[0]):
            cell = _plus_minus(dense.set_index("method"), "dense", column, f"{kind}_sd")
            start = ["dense" if not lines else "", *(["100"] * 3 if not lines else [""] * 3)]
            lines.append({"cells": [*start, WHOSE[kind], cell], "across": True})
    own = table[table["method"].isin(METHODS)]
    for rank, part in own.groupby("rank"):
        start, more = [str(rank)], {"rule": "thin"}
        if part["published_accuracy"].notna().any():
            shares = [f"{part['published_ratio'].iloc[0]:g}", "", ""]
            lines.append(line("published", part, METHODS, [*start, *shares], **more))
            start, more = [""], {}
        if part["measured_mean"].notna().any():
            shares = [_most(part[name]) for name in RATIOS]
            lines.append(line("measured", part, METHODS, [*start, *shares], **more))
    head = ["Rank", *RATIOS.values(), ""]
    if others:
        lines.append({"cells": [*head, *map(_short, others)], "head": True})
        for rank, part in measured[measured["method"].isin(others)].groupby("rank"):
            small = part[part["method"].isin(names.BASELINES)]
            shares = [_most(small[name]) for name in RATIOS]
            lines.append(line("measured", part, others, [str(rank), *shares]))
    data = datasets.title(first["dataset"]).split(" (")[0]
    wide = _wider_scope(rows)
    what = f", {SCOPES[wide]}" if wide else ""
    title = f"{nets.label(first['model'])} on {data}{what}: {split} accuracy (%)"
    kind = "Published and measured" if table["published_accuracy"].notna().any() else "Measured"
    keys = "Left: percent that remain, with a bias; best of a line in bold"
    if "lora" in others:
        keys += "; of LoRA's net 100% remain"
    subtitle = f"{kind}: {conditions(rows)}\n{keys}"
    fig = marks.table([*head, *map(_short, METHODS)], lines, title, subtitle, left=5, left_width=0.085)
    small = measured[measured["method"].isin(METHODS)]
    if len(small):
        top = small.loc[small["measured_mean"].idxmax()]
        fig.alt_text = (
            f"{title}, measured with {conditions(rows)}; the best C-LoRA net is "
            f"{method_label(top['method'])}, rank {top['rank']}, with {top['measured_mean']:.2f}. "
            + fig.alt_text
        )
    return fig


def trained_and_remaining(rows: pd.DataFrame, rank: int) -> pd.DataFrame:
    """What trains and what remains in the end, as fractions of the dense net: LoRA against compression.

    Args:
        rows: of one setting, see `choose`.
        rank: whose nets.

    Returns:
        Indexed by the methods' printed names: trained, remains (fractions).

    Raises:
        MissingResults: there is no dense net, or none of that rank.

    Example:
        >>> trained_and_remaining(rows, 16).loc["LoRA fine-tuning (all of W stays)"]  # doctest: +SKIP
    """
    _one_setting(rows)
    sizes = rows[rows["metric"].isin(["parameters", "trainable_parameters"])]
    table = sizes.pivot_table(index=["rank", "method"], columns="metric", values="value")
    if ("dense" not in table.index.get_level_values("method")) or rank not in table.index:
        raise MissingResults(
            f"`rows` must hold the dense net and nets of rank {rank}. Received: {list(table.index)}."
        )
    whole = table.loc[(0, "dense"), "parameters"]
    order = [name for name in (*names.METHOD_LABELS, *names.REFERENCES) if name not in ("dense", "svd")]
    chosen = table.loc[rank].reindex([name for name in order if name in table.loc[rank].index])
    chosen = pd.concat([table.loc[0], chosen])[["trainable_parameters", "parameters"]] / whole
    return chosen.set_axis(["trained", "remains"], axis=1).rename(index=method_label)


def _data(row: pd.Series) -> str:
    title = datasets.title(row["dataset"])
    return title + ("" if row["fraction"] == 1.0 else f", {100 * row['fraction']:.3g}%")


def _short(method: str) -> str:
    labels = {"bias": "Bias", "noise": "Noise", "noise_bias": "Noise & bias", "lora": "LoRA\nfine-tuning"}
    labels |= {"svd": "SVD, no\ntraining", "svd_finetune": "SVD then\nfine-tuning"}
    return {**labels, "scratch": "Low-rank\nfrom scratch"}.get(method, method_label(method))


def _most(values: pd.Series) -> str:
    """The largest: a bias, which two of the methods keep, makes a difference of a few tenths."""
    return "" if values.isna().all() else f"{values.max():.1f}"


def _plus_minus(part: pd.DataFrame, method: str, value: str, spread: str) -> str:
    if method not in part.index or not np.isfinite(part.loc[method, value]):
        return "–"
    sd = part.loc[method, spread]
    return f"{part.loc[method, value]:.2f}" + (f" ± {sd:.2f}" if np.isfinite(sd) else "")
