"""What the slides' authors' code does where the slides say less, or otherwise: read in their notebooks.

The notebooks are public (github.com/dellaanima/C-LoRA_3L, TensorFlow 2.14, keras-nlp 0.6.2), which is how a
reader can know. Each difference has our own measurement beside it, where one was made: of the recorded rows
of the recipes "as_coded" and "as_written", of shapes, or of small nets here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from clora_lab import methods, studies
from clora_lab.lab.frames import MissingResults, signed
from clora_lab.slides import shapes
from clora_lab.slides.audit import WIDTH

REPOSITORY = "github.com/dellaanima/C-LoRA_3L"
NOT_RUN = "not measured here"
FIRST = methods.names("slides")[0]


@dataclass(frozen=True)
class Difference:
    """A line of the list.

    Args:
        topic: what it is about.
        slides: what the slides say, with the slide's number.
        code: what the code does.
        where: the notebook, in the folder `src` of the repository.
        setting: how it is chosen in this package, or "".
        measure: what of it was measured here, as a sentence; "" where nothing was.
    """

    topic: str
    slides: str
    code: str
    where: str
    setting: str = ""
    measure: Callable[[], str] = lambda: ""


TOY = "Toy Project/Weight_Decay_Scheduling_Fixed_againbias_schedule"
LAYERS = "LoRA_Layer_Code"
VGG = "VGGNet/fitted_vgg16_with_lora_[WDS] and its three siblings"
BERT = "Bert-Tiny/Bert_Tiny"


def differences() -> pd.DataFrame:
    """The list: topic, slides, code, where, setting, measured.

    Example:
        >>> differences()["topic"].tolist()[0]
        'activation'
    """
    rows = []
    for each in LIST:
        try:
            measured = each.measure()
        except (FileNotFoundError, MissingResults):
            measured = ""
        rows.append({**vars(each), "measured": measured or NOT_RUN})
    return pd.DataFrame(rows).drop(columns="measure")


def report() -> str:
    """The list for a terminal of 80 columns.

    Example:
        >>> print(report().splitlines()[0])
        What the code does: 8 differences between the slides and the authors' notebooks
    """
    table = differences()
    lines = [
        f"What the code does: {len(table)} differences between the slides and the authors' notebooks",
        f"({REPOSITORY}, folder src), each with what was measured here.",
    ]
    for row in table.itertuples():
        lines += ["", row.topic[0].upper() + row.topic[1:]]
        for head, text in (
            ("slides", row.slides), ("code", row.code), ("where", row.where), ("here", row.setting),
            ("measured", row.measured),
        ):  # fmt: skip
            if text:
                place = {"initial_indent": f"  {head}: ", "subsequent_indent": "    "}
                lines.append(textwrap.fill(text, WIDTH, break_on_hyphens=False, **place))
    return "\n".join(lines)


# --- measurements -------------------------------------------------------------------------------


def _activation() -> str:
    from clora_lab.studies import as_coded

    rows, study = studies.recorded("toy").read(), studies.get("toy")
    rows = rows[(rows["dataset"] == "fashion_mnist") & (rows["fraction"] == 1.0)]
    return as_coded.in_words(as_coded.side_by_side(rows, study), as_coded.softmax(rows))


def _width() -> str:
    """The slides' four methods with A by the rank against A by the inputs, paired by cell and seed."""
    from clora_lab.lab import tables

    rows = studies.recorded("toy").read()
    rows = rows[rows["method"].isin(methods.names("slides")) & (rows["dataset"] == "fashion_mnist")]
    by = ["method", "rank", "seed", "variant"]
    found = 100 * tables.final_values(rows, "validation").set_index(by)["value"].unstack("variant")
    pairs = found.reindex(columns=["as_written", "slides"]).dropna()
    if pairs.empty:
        return ""
    gaps = (pairs["as_written"] - pairs["slides"]).groupby(level=["method", "rank"]).mean()
    ratio = math.sqrt(512 / 16)
    return (
        f"The wide A against the narrow one in the toy net, activation on the sum, validation: "
        f"{signed(gaps.min())} to {signed(gaps.max())} points over {len(gaps)} cells, {signed(gaps.mean())} "
        f"in the mean ({len(pairs)} pairs of runs). At rank 16 and 512 inputs A is {ratio:.1f} times as wide."
    )


def _convolution() -> str:
    left = shapes.vgg16_remaining(16, 16) + shapes.VGG16_HEAD.parameters
    return (
        "Both layouts have k·k·r·(Cin + Cout) parameters, so the ratios of slide 19 fit either "
        f"({100 * left / shapes.total(shapes.VGG16):.2f}% at 16/16 with the output layer). 1 x k and then "
        "k x 1 also runs with as many; one kernel of the product runs as W did."
    )


def _twice() -> str:
    from clora_lab.studies import as_coded

    rows = studies.recorded("bert").read()
    rows = rows[(rows["model"] == "bert_tiny") & rows["variant"].isin([*as_coded.RECIPES, "slides"])]
    table = as_coded.side_by_side(rows, studies.get("bert"), "test")
    said = [
        f"{row.method} at rank {row.rank}: {row.as_coded:.2f} as coded, {row.as_written:.2f} as written"
        for row in table.itertuples()
    ]
    seeds = int(table["as_coded_n"].min())
    return f"BERT-Tiny on IMDB, test accuracy, {seeds} seeds, no layer with an activation: {'; '.join(said)}."


def _curve() -> str:
    """The compressed path alone in the middle of training: epoch 15 of 30, where d is 0.56."""
    store = studies.recorded("toy")
    runs = store.read()
    runs = runs[(runs["variant"] == "as_coded") & (runs["method"] == FIRST) & (runs["rank"] == 16)]
    history = store.read_history()
    own = history[history["config"].isin(runs["config"]) & (history["epoch"] == 15)]
    if own.empty:
        return ""
    alone, both = 100 * own["val_compressed_accuracy"].mean(), 100 * own["val_accuracy"].mean()
    return (
        f"{methods.label(FIRST)} at rank 16, as coded, epoch 15 (d = {own['decay'].mean():.2f}): "
        f"{alone:.1f}% by B·A alone, {both:.1f}% by what trains."
    )


LIST = (
    Difference(
        "activation",
        "d(Wx + b) + sBAx in place of Wx + b (slide 8): the activation acts on the sum",
        "the wrapped layer has its activation inside: d·f(Wx + b) + sBAx + c in training, sBAx + c after, "
        "and nothing is applied to it, so every compressed layer is linear and the toy net one linear "
        "classifier",
        f"{TOY}; {LAYERS}",
        'activation_on="original"; variant=as_coded',
        _activation,
    ),
    Difference(
        "width of A",
        "A random, B zero",
        "A has the shape (rank, inputs), of which Keras takes the rank for the fan in, so that A is "
        "√(inputs / rank) times as wide as one drawn by the inputs; attention's output is a kernel of three "
        "axes and keeps the inputs",
        LAYERS,
        'init="lora"; "lora_inputs" is the narrow one',
        _width,
    ),
    Difference(
        "layout of the convolution",
        "B·A of (Cout·k, r·k) and (r·k, Cin·k) (slide 18)",
        "B·A is reshaped to (Cout, k, k, Cin), K[o, a, b, i] = Σ_r B[o·k + a, r] A[r, b·Cin + i]: a 1 x k "
        "and a k x 1 convolution. loralib's own view, (Cout, Cin, k, k), can't be run in factors",
        f"{LAYERS}; {VGG}",
        'factorization="spatial"',
        _convolution,
    ),
    Difference(
        "d in attention",
        "d(Wx + b) (slide 8)",
        "the layers of query, key, value and output multiply Wx + b by d twice: d²(Wx + b); the noise has d",
        f"{LAYERS}; {BERT}",
        "decay_power=2",
        _twice,
    ),
    Difference(
        "curves of validation",
        "loss and accuracy against epochs (slides 10, 15, 16)",
        "whatever is evaluated is B·A alone from the first epoch on, so these curves stay near chance until "
        "the decay is nearly done; that says nothing of what trains",
        f"{TOY}; {LAYERS}",
        'clora_lab.view(model, "compressed")',
        _curve,
    ),
    Difference(
        "noise of attention's output",
        "mean and deviation of W (slide 14)",
        "both over axis 0 of the kernel: the inputs of Dense, query, key and value, but the heads alone of "
        "attention's output (heads, head size, width)",
        LAYERS,
    ),
    Difference(
        "images of CIFAR-10",
        "5,000 for training, 1,000 for validation (slide 18)",
        "all 50,000 and 10,000; what is validated on is the test set",
        VGG,
        "part=full",
    ),
    Difference(
        "loss of BERT",
        "a classifier of two classes",
        "two sigmoid outputs with a binary cross-entropy each, accuracy by the larger; the dense net stops "
        "early on the texts that the tables report",
        BERT,
    ),
)
