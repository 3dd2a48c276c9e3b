"""The drawings of slides 5, 6, 8, 13 and 18, made by code from one small set of shapes.

A box is a matrix, two trapezoids are the low-rank pair A and B, a bar is a vector, an arrow is the
flow of data. Lengths are in inches of the final print. Labels are English, or Korean (`lang="ko"`)
where a font with Hangul is installed. `style.save` writes a drawing to files, `style.alt_text`
describes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Polygon, Rectangle

from clora_lab.lab.figures.style import (
    FAINT,
    INK,
    WIDTH,
    new_figure,
    set_title,
    styled,
    use_language,
    wrap_title,
)

# Light fills keep dark text readable; W, adapter, bias and noise also differ in hatching and edge.
W_FILL, PAIR_FILL, BIAS_FILL = "#bcdcf2", "#fbd9a5", "#8fd3b8"
VECTOR_FILL, PLAIN_FILL = "#eeeeee", "#ffffff"
LABELS = {
    "en": {
        "fine_tuning": "Regular fine-tuning",
        "fine_tuning_sub": "All of W is updated",
        "forward": "Forward pass",
        "updated": "Updated weights",
        "pretrained": "pretrained\nweights",
        "update": "weight\nupdate",
        "new": "updated\nweights",
        "input": "input x",
        "output": "output h",
        "lora": "LoRA: low-rank adaptation",
        "lora_sub": "Only the pair $W_A$, $W_B$ is trained; its product stands for ΔW",
        "frozen": "pretrained,\nfrozen",
        "trained": "trained",
        "wds": "Weight Decay Scheduling (WDS)",
        "wds_sub": "d·(W·x + b) + s·B·A·x\n"
        "W and its bias b fade, the low-rank pair B·A learns what they lose",
        "noise": "WDS with scheduled noise and bias",
        "noise_sub": "d·(W·x + b) + n·x + s·B·A·x + C\n"
        "Noise n fills the space that W leaves; a bias C is trained beside B·A",
        "start": "start",
        "training": "training",
        "end": "only B·A is left",
        "end_noise": "only B·A and C are left",
        "key_w": "W, b (frozen)",
        "key_pair": "A, B (trained)",
        "key_bias": "C (trained)",
        "key_noise": "noise n",
        "layers": "Layers of the network",
        "layers_sub": "{wrapped} of {count} layers are wrapped by a low-rank pair",
        "key_wrapped": "wrapped: replaced by a low-rank pair",
        "key_kept": "left as it is",
    },
    "ko": {
        "fine_tuning": "일반 파인튜닝",
        "fine_tuning_sub": "W 전체를 업데이트한다",
        "forward": "순전파",
        "updated": "업데이트된 가중치",
        "pretrained": "사전 학습된\n가중치",
        "update": "가중치\n변화량",
        "new": "업데이트된\n가중치",
        "input": "입력 x",
        "output": "출력 h",
        "lora": "LoRA: 저랭크 적응",
        "lora_sub": "$W_A$와 $W_B$만 학습하며, 둘의 곱이 ΔW를 대신한다",
        "frozen": "사전 학습된\n가중치 (고정)",
        "trained": "학습",
        "wds": "가중치 감쇠 스케줄링 (WDS)",
        "wds_sub": "d·(W·x + b) + s·B·A·x\nW와 편향 b는 점점 줄고, 잃어버린 정보를 저랭크 쌍 B·A가 학습한다",
        "noise": "노이즈와 편향을 더한 WDS",
        "noise_sub": "d·(W·x + b) + n·x + s·B·A·x + C\n"
        "W가 비운 자리를 노이즈 n이 채우고, B·A 옆에서 편향 C를 함께 학습한다",
        "start": "시작",
        "training": "학습 중",
        "end": "B·A만 남음",
        "end_noise": "B·A와 C만 남음",
        "key_w": "W, b (고정)",
        "key_pair": "A, B (학습)",
        "key_bias": "C (학습)",
        "key_noise": "노이즈 n",
        "layers": "신경망의 층 구조",
        "layers_sub": "전체 {count}개 층 가운데 {wrapped}개를 저랭크 쌍으로 감쌌다",
        "key_wrapped": "감싼 층: 저랭크 쌍으로 대체",
        "key_kept": "그대로 둔 층",
    },
}


def _labels(lang: str) -> dict[str, str]:
    """The labels of a language; sets a font that can print them, until the drawing is `styled`."""
    return LABELS[use_language(lang, stacklevel=5)]


# --- the shapes ---------------------------------------------------------------------------------


def canvas(height: float, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """A titled figure with one axis in inches, from (0, 0) to (WIDTH, height)."""
    title, subtitle = wrap_title(title, subtitle)
    total = height + 0.4 + 0.2 * title.count("\n") + 0.17 * (1 + subtitle.count("\n"))
    fig = new_figure(total)
    fig.set_layout_engine("none")  # the drawing has its own places
    set_title(fig, title, subtitle, y=1 - 0.06 / total)
    ax = fig.add_axes((0, 0, 1, height / total))
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def write(ax: Axes, x: float, y: float, text: str, **style) -> None:
    if text:
        ax.text(x, y, text, **{"ha": "center", "va": "center", "linespacing": 1.3, **style})


def draw_matrix(ax, x, y, width, height, label="", fill=W_FILL, **style) -> None:
    """A matrix: a box with its lower left corner at (x, y)."""
    ax.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            **{"facecolor": fill, "edgecolor": INK, "linewidth": 1.3, **style},
        )
    )
    write(ax, x + width / 2, y + height / 2, label, fontsize=11)


def draw_pair(ax, x, y, width, height, labels=("A", "B")) -> None:
    """A low-rank pair in a box at (x, y): A narrows from the input to the rank, B widens again."""
    middle, top, waist = y + height / 2, y + height, width * 0.36
    left, right = x + (width - waist) / 2, x + (width + waist) / 2
    gap = 0.02
    down = [(x, y), (x + width, y), (right, middle - gap), (left, middle - gap)]
    up = [(left, middle + gap), (right, middle + gap), (x + width, top), (x, top)]
    for corners, label, at in zip((down, up), labels, (y + 0.24 * height, y + 0.76 * height), strict=True):
        ax.add_patch(Polygon(corners, closed=True, facecolor=PAIR_FILL, edgecolor=INK, linewidth=1.3))
        write(ax, x + width / 2, at, label, fontsize=11 if width > 0.7 else 10)


def _vector(ax, x, y, width, label, height=0.2) -> None:
    """A vector: a flat bar centred at (x, y)."""
    draw_matrix(ax, x - width / 2, y - height / 2, width, height, fill=VECTOR_FILL)
    write(ax, x, y, label)


def draw_arrow(ax, start, end, **style) -> None:
    style = {
        "arrowstyle": "-|>",
        "mutation_scale": 11,
        "linewidth": 1.4,
        "color": INK,
        "shrinkA": 0,
        "shrinkB": 0,
        **style,
    }
    ax.add_patch(FancyArrowPatch(start, end, **style))


def _plus(ax, x, y, sign="+") -> None:
    ax.add_patch(Circle((x, y), 0.11, facecolor="white", edgecolor=INK, linewidth=1.3))
    write(ax, x, y, sign, fontsize=11)


def _noise(ax, x, y, side, seed) -> None:
    """A square of random greys: a matrix redrawn at each step."""
    cells = 12
    greys = np.random.default_rng(seed).uniform(0.45, 0.95, (cells, cells))
    edges = np.linspace(0, side, cells + 1)
    ax.pcolormesh(x + edges, y + edges, greys, cmap="gray", vmin=0, vmax=1, linewidth=0, antialiased=False)


def _key(ax, y, entries) -> None:
    """A row of small squares with their meaning, spread over the width."""
    step = WIDTH / len(entries)
    for index, (fill, label, style) in enumerate(entries):
        x = 0.25 + index * step
        if fill == "noise":
            _noise(ax, x, y - 0.08, 0.16, 0)
            fill = "none"
        draw_matrix(ax, x, y - 0.08, 0.16, 0.16, fill=fill, **style)
        write(ax, x + 0.24, y, label, ha="left")


# --- slides 5 and 6 -----------------------------------------------------------------------------


@styled
def fine_tuning(lang: str = "en") -> Figure:
    """Slide 5: regular fine-tuning, h = (W + ΔW)·x, and the updated weights W' = W + ΔW.

    Args:
        lang: language of the labels, "en" or "ko".

    Raises:
        ValueError: if `lang` is none of them.

    Example:
        >>> fig = fine_tuning(lang="en")
    """
    labels = _labels(lang)
    fig, ax = canvas(2.75, labels["fine_tuning"], labels["fine_tuning_sub"])
    write(ax, 1.35, 2.6, labels["forward"], weight="bold")
    write(ax, 4.7, 2.6, labels["updated"], weight="bold")
    side = 0.85
    for x, name, below, fill in (
        (0.3, "W", "pretrained", W_FILL),
        (1.55, "ΔW", "update", PAIR_FILL),
    ):
        draw_matrix(ax, x, 0.85, side, side, fill=fill)
        write(ax, x + side / 2, 1.5, name, fontsize=12)
        write(ax, x + side / 2, 1.12, labels[below])
        draw_arrow(ax, (1.35, 0.4), (x + side / 2, 0.85))
        draw_arrow(ax, (x + side / 2, 1.7), (1.35 + (-0.09 if x < 1 else 0.09), 1.99))
    _vector(ax, 1.35, 0.29, 1.1, labels["input"])
    _plus(ax, 1.35, 2.04)
    _vector(ax, 1.35, 2.38, 1.1, labels["output"])
    draw_arrow(ax, (1.35, 2.15), (1.35, 2.28))
    for x, name, below, fill, sign in (
        (3.05, "W", "pretrained", W_FILL, "+"),
        (4.25, "ΔW", "update", PAIR_FILL, "="),
        (5.45, "W′", "new", BIAS_FILL, ""),
    ):
        draw_matrix(ax, x, 0.85, side, side, fill=fill)
        write(ax, x + side / 2, 1.5, name, fontsize=12)
        write(ax, x + side / 2, 1.12, labels[below])
        write(ax, x + side + 0.175, 0.85 + side / 2, sign, fontsize=14)
    write(ax, 4.7, 0.45, "h = W·x + ΔW·x = W′·x", fontsize=11)
    fig.alt_text = (
        "Regular fine-tuning: the input x goes through the pretrained weights W and, beside them, "
        "through their update ΔW of the same size, and the sum is the output h; after training the "
        "two are added to the updated weights W′."
    )
    return fig


@styled
def lora(lang: str = "en") -> Figure:
    """Slide 6: LoRA, h = W·x + W_B·W_A·x with W frozen and a pair of rank r that is trained.

    Args:
        lang: language of the labels, "en" or "ko".

    Raises:
        ValueError: if `lang` is none of them.

    Example:
        >>> fig = lora(lang="en")
    """
    labels = _labels(lang)
    fig, ax = canvas(2.85, labels["lora"], labels["lora_sub"])
    side, base = 1.2, 0.75
    draw_matrix(ax, 0.75, base, side, side, fill=W_FILL, hatch="///", edgecolor="#7fb2d6")
    draw_matrix(ax, 0.75, base, side, side, fill="none")
    write(ax, 0.75 + side / 2, base + 0.8, "W", fontsize=13)
    write(ax, 0.75 + side / 2, base + 0.4, labels["frozen"], bbox=_paper(W_FILL))
    draw_pair(ax, 2.85, base, side, side, labels=("$W_A$", "$W_B$"))
    centre = 2.4
    for x in (0.75 + side / 2, 2.85 + side / 2):
        draw_arrow(ax, (centre, 0.4), (x, base))
        draw_arrow(ax, (x, base + side), (centre + (0.1 if x > centre else -0.1), 2.2))
    _vector(ax, centre, 0.29, 1.3, labels["input"])
    _plus(ax, centre, 2.25)
    draw_arrow(ax, (centre, 2.36), (centre, 2.5))
    _vector(ax, centre, 2.61, 1.3, labels["output"])
    write(ax, 4.2, base + 0.76 * side, f"$W_B$: d × r, {labels['trained']}", ha="left")
    write(ax, 4.2, base + 0.24 * side, f"$W_A$: r × k, {labels['trained']}", ha="left")
    write(ax, 4.2, base + 0.5 * side, "r ≪ min(d, k)", ha="left")
    write(ax, 4.75, 2.45, "$h = W x + W_B W_A x$", fontsize=11)
    fig.alt_text = (
        "LoRA: the input x goes through the frozen weights W (d × k) and, beside them, through "
        "the trained pair W_A (r × k) and W_B (d × r) of a rank r far below d and k; the sum of "
        "the two is the output h."
    )
    return fig


def _paper(fill: str) -> dict:
    """A box behind a text, so that hatching does not run through the letters."""
    return {"facecolor": fill, "edgecolor": "none", "pad": 1.5}


# --- slides 8 and 13 ----------------------------------------------------------------------------


@styled
def wds_stages(noise: bool = False, lang: str = "en") -> Figure:
    """Slide 8: d·(W·x + b) + s·B·A·x in four stages, d = 1, 0.66, 0.33, 0; slide 13 with noise.

    The sides of W are drawn d long. With noise, n fills the space that W leaves, and a bias C is
    trained beside B·A; at the end nothing of W and of the noise is left.

    Args:
        noise: draw slide 13 instead of slide 8.
        lang: language of the labels, "en" or "ko".

    Raises:
        ValueError: if `lang` is none of them.

    Example:
        >>> fig = wds_stages(noise=True)
    """
    labels = _labels(lang)
    name = "noise" if noise else "wds"
    fig, ax = canvas(2.3, labels[name], labels[f"{name}_sub"])
    decays = (1.0, 0.66, 0.33, 0.0)
    side, base, step = 0.72, 0.75, WIDTH / 4
    for index, decay in enumerate(decays):
        left = index * step + 0.07
        write(ax, left + 0.72, 2.1, f"d = {decay:g}", fontsize=11, weight="bold")
        ends = {1.0: "start", 0.0: "end_noise" if noise else "end"}
        write(ax, left + 0.72, 1.87, labels[ends.get(decay, "training")])
        fading = noise and 0 < decay < 1
        if fading:
            _noise(ax, left, base, side, seed=index)
        empty = {"fill": "none", "linestyle": (0, (3, 2)), "linewidth": 1, "edgecolor": FAINT}
        if decay < 1 and not fading:
            draw_matrix(ax, left, base, side, side, **empty)
        if decay < 1:
            draw_matrix(ax, left, base - 0.2, side, 0.12, **empty)
        if decay > 0:
            draw_matrix(ax, left, base, side * decay, side * decay, "W")
            draw_matrix(ax, left, base - 0.2, side * decay, 0.12)
            write(ax, left + side * decay / 2, base - 0.31, "b")
        if fading:
            draw_matrix(ax, left, base, side, side, fill="none")
        draw_pair(ax, left + side + 0.14, base, 0.6, side)
        if noise:
            draw_matrix(ax, left + side + 0.14, base - 0.2, 0.6, 0.12, fill=BIAS_FILL)
            write(ax, left + side + 0.44, base - 0.31, "C")
        if index:
            draw_arrow(ax, (left - 0.19, 1.62), (left - 0.01, 1.62), linewidth=1.8)
    entries = [(W_FILL, labels["key_w"], {}), (PAIR_FILL, labels["key_pair"], {})]
    if noise:
        entries += [(BIAS_FILL, labels["key_bias"], {}), ("noise", labels["key_noise"], {})]
    _key(ax, 0.16, entries)
    added = ", the space that W leaves is filled by noise, and a bias C is trained" if noise else ""
    left_over = "B·A and C are left, without noise" if noise else "B·A is left"
    stages = ", ".join(f"{decay:g}" for decay in decays)
    fig.alt_text = (
        f"Weight Decay Scheduling in {len(decays)} stages, d = {stages}: W and its bias shrink "
        f"beside the low-rank pair B·A{added}, until only {left_over}."
    )
    return fig


# --- slide 18 -----------------------------------------------------------------------------------


@styled
def layer_stack(
    layers: Sequence[tuple[str, str, str]],
    wrapped: Collection[str],
    title: str = "",
    lang: str = "en",
) -> Figure:
    """Slide 18: the layers of a network from input to output, the wrapped ones marked.

    Args:
        layers: (name, kind, shape text) of each layer in the order of the data, as in
            ("block1_conv1", "Conv2D", "32 × 32 × 64"). More than ten go on in a second column.
        wrapped: names of the layers that a low-rank pair replaces.
        title: what network it is, and of which data; a general title if left out.
        lang: language of the labels, "en" or "ko".

    Raises:
        ValueError: if `layers` is empty, not in threes, or `wrapped` has a name that is not in it.

    Example:
        >>> net = [("dense", "Dense", "256"), ("head", "Dense", "10")]
        >>> fig = layer_stack(net, wrapped=["dense"])
    """
    labels = _labels(lang)
    layers = [tuple(layer) for layer in layers]
    if not layers or any(len(layer) != 3 for layer in layers):
        raise ValueError(
            "`layers` must hold at least one (name, kind, shape text). "
            f"Received: {next((x for x in layers if len(x) != 3), layers)!r}."
        )
    names = [name for name, _, _ in layers]
    unknown = sorted(set(wrapped) - set(names))
    if unknown:
        raise ValueError(f"`wrapped` must name layers. Received: {unknown}, but there are: {names}.")
    columns = 1 if len(layers) <= 10 else 2
    rows = -(-len(layers) // columns)
    count = sum(name in set(wrapped) for name in names)
    box = 0.25 if columns == 1 else 0.38  # two columns leave room for the kind on a second line only
    pitch = box + 0.1
    height = rows * pitch + 0.4
    subtitle = labels["layers_sub"].format(wrapped=count, count=len(layers))
    fig, ax = canvas(height, title or labels["layers"], subtitle)
    width = (WIDTH - 0.3 * (columns + 1)) / columns
    for index, (name, kind, shape) in enumerate(layers):
        column, row = divmod(index, rows)
        x, y = 0.3 + column * (width + 0.3), height - 0.05 - row * pitch - box
        mark = name in wrapped
        draw_matrix(ax, x, y, width, box, fill=PAIR_FILL if mark else PLAIN_FILL, **_edge(mark))
        if mark:
            draw_pair(ax, x + 0.07, y + box / 2 - 0.09, 0.16, 0.18, labels=("", ""))
        upper, lower = (0.5, 0.5) if columns == 1 else (0.71, 0.27)
        name_style = {"ha": "left", "weight": "bold" if mark else "normal"}
        write(ax, x + 0.32, y + upper * box, _short(name, 0.5 * width), **name_style)
        write(ax, x + width - 0.08, y + box / 2, shape, ha="right")
        kind_at = 0.32 if columns == 2 else 0.55 * width
        write(ax, x + kind_at, y + lower * box, kind, ha="left", color=INK)
        if index + 1 == len(layers):
            break
        if row + 1 < rows:
            draw_arrow(ax, (x + width / 2, y), (x + width / 2, y + box - pitch), mutation_scale=8)
        else:
            _turn(ax, x + width, y + box / 2, height - 0.05 - box / 2)
    keys = ((PAIR_FILL, "key_wrapped", True), (PLAIN_FILL, "key_kept", False))
    _key(ax, 0.16, [(fill, labels[key], _edge(mark)) for fill, key, mark in keys])
    marked = ", ".join(name for name in names if name in wrapped) or "none"
    fig.alt_text = (
        f"{title or labels['layers']}: {len(layers)} layers from {names[0]} to {names[-1]}, of "
        f"which {count} are wrapped by a low-rank pair: {marked}."
    )
    return fig


def _short(text: str, inches: float) -> str:
    """`text`, cut where it would be wider than `inches` in bold print of 9 points."""
    letters = int(inches / 0.085)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _edge(mark: bool) -> dict:
    return {"linewidth": 2.0, "edgecolor": INK} if mark else {"linewidth": 0.9, "edgecolor": FAINT}


def _turn(ax: Axes, x: float, low: float, high: float) -> None:
    """The way from the last box of a column to the first of the next one."""
    ax.plot([x, x + 0.15, x + 0.15], [low, low, high], color=INK, linewidth=1.4)
    draw_arrow(ax, (x + 0.15, high), (x + 0.3, high), mutation_scale=8)
