"""Five widgets of the course, each a plain function with controls in front of it (ipywidgets 8).

| widget | plain functions | still picture |
|---|---|---|
| `schedule_explorer` | `schedule_table` | `schedule_explorer_static` |
| `noise_explorer` | `noise_table`, `noise_moments` | `noise_explorer_static` |
| `rank_explorer` | `layer_facts`, `rank_table`, `rank_ratios` | `rank_explorer_static` |
| `results_explorer` | `results_summary`, `results_curves` | `results_explorer_static` |
| `live_training` | `LiveTraining.history` | `live_training_static` |

A plain function turns settings into a data frame, or raises a `ValueError` that says what to do. The
widget shows that message beside its last valid picture, which is a PNG made anew from the frame when a
control changes. So nothing but ipywidgets has to run in the browser: JupyterLab, Notebook and Colab do.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import gc
import html
import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import ipywidgets
import keras
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from scipy.ndimage import gaussian_filter1d

import clora_lab as cl
from clora_lab import _checks, accounting, factors, layers, noise, schedules, surgery
from clora_lab.course import course
from clora_lab.lab import training
from clora_lab.lab.figures import figures
from clora_lab.lab.figures.figures import BLUE, FAINT, GREY, INK, METHOD_STYLES, ORANGE, RED

DPI = 100
# Titles at a given height: finding a free one takes a third of the time of a picture.
STYLE = {**figures.STYLE, "axes.titley": 1.0}
PICTURE_WIDTH = "660px"
LABEL_WIDTH, CONTROL_WIDTH = "9.5em", "28em"
WHOLE = "(whole model)"
# More values than these show in no density, and would make it slow.
MAX_WEIGHTS = 50_000
STEPS = 1000  # of the schedules that the explorer draws; a thousandth of the training each


# --- the frame around every widget --------------------------------------------------------------

CSS = """<style>
.clora-stale {opacity: .35}
.clora-alt {position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)}
.clora-message {border-left: 4px solid; padding: .3em .7em; line-height: 1.4; color: #222}
.clora-error {border-color: #c0392b; background: #fdf0ee}
.clora-note {border-color: #0173b2; background: #eef6fb}
.clora-text * {line-height: 1.45}
.clora-text p {margin: .3em 0}
.clora-text table {border-collapse: collapse; font-size: 90%}
.clora-text th, .clora-text td {padding: .15em .8em; text-align: right; border: none}
.clora-text th:first-child, .clora-text td:first-child {text-align: left; padding-left: 0}
.clora-text thead th {border-bottom: 1px solid; white-space: normal; vertical-align: bottom}
</style>"""


@dataclasses.dataclass
class Reading:
    """What stands below a picture: a table or a sentence; and a remark on the settings, or ""."""

    text: str
    remark: str = ""


View = Callable[..., Reading]  # (figure, **settings) -> Reading; draws into the empty figure


class Explorer(ipywidgets.VBox):
    """Controls, a message, a picture and a text; all but the controls follow the controls.

    Args:
        view: draws the settings into a figure; a `ValueError` of it becomes the message.
        controls: a widget with a `value` for each setting of the view, by name.
        height: of the picture, in inches.

    Attributes:
        controls: the same widgets by name, to be read or set from code.
        message, image, text: the widgets that are written.
    """

    def __init__(self, view: View, controls: Mapping[str, ipywidgets.Widget], height: float):
        self.view, self.height, self.controls = view, height, dict(controls)
        self.message, self.text = ipywidgets.HTML(), ipywidgets.HTML()
        self.text.add_class("clora-text")
        self.image = _image()
        self._defaults = {name: control.value for name, control in self.controls.items()}
        self.reset_button = ipywidgets.Button(
            description="Reset", tooltip="Set every control back to where it began", icon="undo"
        )
        self.reset_button.on_click(lambda button: self.reset())
        for control in self.controls.values():
            control.observe(self.update, names="value")
        self._quiet = False
        row = _row([*self.controls.values(), self.reset_button])
        super().__init__([ipywidgets.HTML(CSS), row, self.message, self.image, self.text])
        self.update()

    @property
    def settings(self) -> dict:
        """The value of every control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def reset(self) -> None:
        """Set every control back to its first value."""
        self.set(**self._defaults)
        self.update()

    def set(self, **settings) -> None:
        """Set several controls without drawing in between; `update` draws."""
        quiet, self._quiet = self._quiet, True
        try:
            for name, value in settings.items():
                self.controls[name].value = value
        finally:
            self._quiet = quiet

    def update(self, change=None) -> None:
        """Draw the present settings, or say in the message why they can't be drawn."""
        if self._quiet:
            return
        try:
            with _short_lived():
                picture, alt, reading = self._draw()
        except Exception as error:  # whatever it is, the reader sees it here and the kernel goes on
            self.message.value = _error(error, "The picture shows the last settings that work.")
            self.image.add_class("clora-stale")
            return
        self.message.value = _note(reading.remark)
        self.image.value = picture
        self.text.value = _alt(alt) + reading.text
        self.image.remove_class("clora-stale")

    def _draw(self) -> tuple[bytes, str, Reading]:
        fig = _empty_figure(self.height)
        with mpl.rc_context(STYLE):
            reading = self.view(fig, **self.settings)
            return _png(fig), fig.alt_text, reading


@contextlib.contextmanager
def _short_lived():
    """Collect at once what was made inside: figures are full of cycles, and left to themselves they
    would soon bring on a collection of everything, half a second among the objects of TensorFlow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.collect(1)


def _empty_figure(height: float) -> figures.LabFigure:
    fig = figures.new_figure(height)
    # Margins are given by hand: constrained layout would draw everything twice.
    fig.set_layout_engine("none")
    fig.set_dpi(DPI)
    return fig


def still_figure(view: View, height: float, **settings) -> Figure:
    """The picture of a view as a figure of its own."""
    fig = _empty_figure(height)
    with mpl.rc_context(STYLE):
        view(fig, **settings)
    return fig


def _png(fig: Figure) -> bytes:
    file = BytesIO()
    fig.canvas.print_png(file)  # draws once; `savefig` would draw twice
    return file.getvalue()


def _image() -> ipywidgets.Image:
    # A fixed width would be cut on a small screen, a relative one alone be huge on a large one.
    layout = ipywidgets.Layout(width="100%", max_width=PICTURE_WIDTH, margin="0", object_fit="contain")
    return ipywidgets.Image(format="png", layout=layout)


def _row(children: Sequence[ipywidgets.Widget]) -> ipywidgets.Box:
    return ipywidgets.Box(children, layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"))


def make_control(kind: type, description: str, value, **options) -> ipywidgets.Widget:
    """A control whose label is not cut, which reacts while it moves, and fits a small screen."""
    layout = ipywidgets.Layout(width=CONTROL_WIDTH, max_width="98%")
    return kind(
        value=value,
        description=description,
        style={"description_width": LABEL_WIDTH},
        layout=layout,
        **options,
    )


def _fraction(description: str, value: float, **options) -> ipywidgets.FloatSlider:
    options = {"min": 0.0, "max": 1.0, "step": 0.01, "readout_format": ".2f", **options}
    return make_control(ipywidgets.FloatSlider, description, value, **options)


def dropdown(description: str, value, options) -> ipywidgets.Dropdown:
    return make_control(ipywidgets.Dropdown, description, value, options=options)


def _error(error: Exception, remedy: str = "") -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    text = html.escape(f"{kind}{error} {remedy}".strip()).replace("\n", "<br>")
    return f'<div class="clora-message clora-error" role="alert"><b>⚠</b> {text}</div>'


def _alt(text: str) -> str:
    """A picture's description for screen readers: an Image widget has none, and breaks with a tooltip."""
    return f'<span class="clora-alt">Picture: {html.escape(text)}</span>'


def _note(remark: str) -> str:
    if not remark:
        return ""
    text = html.escape(remark)
    return f'<div class="clora-message clora-note" role="status"><b>Note:</b> {text}</div>'


def html_table(frame: pd.DataFrame) -> str:
    """A frame of texts as an HTML table."""
    return frame.to_html(index=False, border=0, na_rep="–")


def html_title(fig: Figure, title: str) -> None:
    fig.suptitle(title, x=0.012, y=0.985, ha="left", va="top", fontsize=11, weight="bold")


def _legend(fig: Figure, axes: Sequence[Axes], ncols: int) -> None:
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig.legend(list(handles.values()), list(handles), loc="lower center", ncols=ncols, handlelength=2.6)


def _finite(argument: str, value, what: str = "a number") -> float:
    if not math.isfinite(_checks.real(argument, value)):
        raise ValueError(f"`{argument}` must be {what}. Received: {value!r}. Enter a finite number.")
    return float(value)


# --- 1. schedules -------------------------------------------------------------------------------


def schedule_table(
    kind: str = "linear",
    begin: float = 0.05,
    end: float = 0.85,
    floor: float = 0.0,
    gate: float = 0.3,
    steps: int = STEPS,
) -> pd.DataFrame:
    """A schedule, the noise that goes with it, and what of the layer's variance is still W's.

    Of d W + n, W holds the share d^2 of the variance of W, and the noise 1 - d^2 while the gate is open.

    Args:
        kind: of `clora_lab.schedules.SCHEDULES`.
        begin, end: fractions of all steps, begin < end.
        floor: d from `end` on.
        gate: the noise is drawn while gate <= d < 1.
        steps: length of the training, in optimiser updates.

    Returns:
        A data frame of steps + 1 rows: step, percent (of the training), decay (d), noise (its standard
        deviation in units of that of W), w_share (d^2), noise_share.

    Raises:
        ValueError: if `begin` >= `end`, or a number is out of range.

    Example:
        >>> schedule_table().loc[450, ["decay", "noise"]].round(3).tolist()
        [0.5, 0.866]
    """
    for argument, value in (("begin", begin), ("end", end), ("floor", floor), ("gate", gate)):
        _finite(argument, value)
    if begin >= end:
        raise ValueError(
            f"`begin` must be smaller than `end`. Received: begin = {begin:g}, end = {end:g}. "
            "Move `end` to the right of `begin`."
        )
    schedule = schedules.get(kind, steps, begin=begin, end=end, floor=floor)
    step = np.arange(steps + 1)
    decay = schedule(step)
    is_open = schedules.NoiseGate(gate)(decay)
    noise_share = is_open * noise.moments(decay, 0.0, 1.0)[1] ** 2
    return pd.DataFrame(
        {
            "step": step,
            "percent": 100.0 * step / steps,
            "decay": decay,
            "noise": np.sqrt(noise_share),
            "w_share": decay**2,
            "noise_share": noise_share,
        }
    )


def _schedule_view(fig, kind="linear", begin=0.05, end=0.85, floor=0.0, gate=0.3, at=50.0):
    frame = schedule_table(kind, begin, end, floor, gate)
    x = frame["percent"]
    here = frame.iloc[(x - _finite("at", at)).abs().argmin()]
    space = {"left": 0.115, "right": 0.975, "top": 0.92, "bottom": 0.265, "hspace": 0.14}
    ax, lower = fig.subplots(2, sharex=True, height_ratios=[1.7, 1], gridspec_kw=space)
    ax.plot(x, frame["decay"], color=BLUE, linewidth=2.4, label="decay d: what is left of W")
    ax.plot(x, frame["noise"], color=RED, linestyle="--", label="noise level √(1 − d²), in σ")
    if gate <= 1:
        ax.axhline(gate, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label="gate of the noise")
    ax.set(ylim=(-0.03, 1.06), ylabel="d;  noise in units of σ")
    ax.yaxis.set_major_locator(MaxNLocator(5))
    bands = {"colors": [BLUE, RED], "alpha": 0.5, "linewidth": 0}
    bands["labels"] = ["W's share of the variance, d²", "the noise's share"]
    lower.stackplot(x, frame["w_share"], frame["noise_share"], **bands)
    lower.set(xlim=(0, 100), ylim=(0, 1), yticks=[0, 0.5, 1], xlabel="Training (% of all steps)")
    lower.set_ylabel("Variance (%)")
    lower.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    for each, y in ((ax, [here["decay"], here["noise"]]), (lower, [])):
        each.axvline(here["percent"], color=INK, linewidth=1)
        each.plot([here["percent"]] * len(y), y, linestyle="", marker="o", color=INK)
        each.yaxis.set_label_coords(-0.085, 0.5)
    _legend(fig, [ax, lower], ncols=2)
    title = f"Decay schedule: {kind}, from {100 * begin:g}% to {100 * end:g}% of the steps"
    html_title(fig, title)
    text = (
        f"At {here['percent']:.1f}% of the steps d = {here['decay']:.3f}: W has {_percent(here['w_share'])} "
        f"of its variance left, and the noise level is {here['noise']:.3f} σ"
    )
    fig.alt_text = f"{title}. {text}; d ends at {frame['decay'].iloc[-1]:.3g}."
    return Reading(f"<p>{text}. {_schedule_marks(frame)}</p>", _schedule_remark(kind, frame, gate))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"


def _schedule_marks(frame: pd.DataFrame) -> str:
    half = frame.loc[frame["decay"] <= 0.5, "percent"]
    noisy = frame.loc[frame["noise"] > 0, "percent"]
    parts = [f"d reaches 0.5 at {half.iloc[0]:.1f}%" if len(half) else "d never reaches 0.5"]
    if len(noisy):
        parts.append(f"noise is drawn from {noisy.iloc[0]:.1f}% to {noisy.iloc[-1]:.1f}%")
    else:
        parts.append("no noise is drawn")
    return "; ".join(parts) + "."


def _schedule_remark(kind: str, frame: pd.DataFrame, gate: float) -> str:
    last = frame["decay"].iloc[-1]
    if kind == "constant":
        return "The constant schedule ignores begin, end and floor: d stays at 1, as in plain LoRA."
    if last == 1.0:
        return "At floor 1 nothing decays, so nothing can be compressed. Lower the floor to 0."
    if last > 0.0:
        return (
            f"d ends at {last:.2f}, so a part of W is still in use and finalize() refuses to drop it. "
            "Lower the floor to 0 to compress."
        )
    if gate > 1.0:
        return "A gate above 1 never opens: no noise is drawn. Lower the gate to 1 or less."
    return ""


def schedule_explorer() -> Explorer:
    """Widget 1: kind, begin, end, floor and gate against d(t), the noise level and the share of W left.

    Example:
        >>> widget = schedule_explorer()
        >>> widget.controls["end"].value = 0.6
    """
    controls = {
        "kind": dropdown("schedule", "linear", list(schedules.SCHEDULES)),
        "begin": _fraction("begin (of all steps)", 0.05),
        "end": _fraction("end (of all steps)", 0.85),
        "floor": _fraction("floor (last d)", 0.0),
        "gate": _fraction("gate (smallest d)", 0.3, max=1.1),
        "at": _fraction("read off at (%)", 50.0, max=100.0, step=0.5, readout_format=".1f"),
    }
    return Explorer(_schedule_view, controls, 4.4)


def schedule_explorer_static(**settings) -> Figure:
    """The picture of `schedule_explorer`, as a figure; settings as the widget's controls."""
    return still_figure(_schedule_view, 4.4, **settings)


# --- 2. noise -----------------------------------------------------------------------------------

NORMAL = "normal N(m, σ²)"
PARTS = ("W", "d·W", "noise n", "d·W + n")


def noise_parts(
    weights: np.ndarray | None, decay: float, mean: float, std: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """W, d W, the noise n ~ N((1 - d) m, (1 - d^2) s^2), and d W + n (slide 14).

    Args:
        weights: values of W of any shape, or None for W ~ N(m, s^2) itself.
        decay: d in [0, 1].
        mean, std: m and s of the noise; s above 0.
        seed: of the draws.

    Returns:
        The four arrays of shape (n,) by name; of more than `MAX_WEIGHTS` weights an even selection.

    Raises:
        ValueError: for numbers out of range, or weights that are none.
    """
    decay = _checks.real("d", decay, 0.0, 1.0)
    mean = _finite("m", mean)
    if not (std > 0.0 and math.isfinite(std)):
        raise ValueError(f"`σ` must be a number above 0. Received: {std!r}. Enter a larger σ.")
    rng = np.random.default_rng(seed)
    if weights is None:
        values = mean + std * rng.standard_normal(20_000)
    else:
        values = np.asarray(weights, "float64").ravel()
        values = values[:: -(-len(values) // MAX_WEIGHTS) or 1]
        if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0.0:
            raise ValueError(
                "`weights` must be at least two finite values that differ. "
                f"Received: an array of shape {np.shape(weights)}. Choose another layer."
            )
    noise_mean, noise_std = noise.moments(decay, mean, std)
    drawn = noise_mean + noise_std * rng.standard_normal(len(values))
    return dict(zip(PARTS, (values, decay * values, drawn, decay * values + drawn), strict=True))


def noise_table(parts: Mapping[str, np.ndarray], bins: int = 400) -> pd.DataFrame:
    """The densities of arrays of values on one common grid.

    Kernel density estimates from binned counts, with Silverman's bandwidth.

    Args:
        parts: arrays of shape (n,) by name, for instance of `noise_parts`.
        bins: number of rows.

    Returns:
        A data frame: value (centre of a bin, in units of a weight), and a density for each part.
    """
    spread = 4.5 * max(values.std() for values in parts.values())
    low = min(values.mean() for values in parts.values()) - spread
    high = max(values.mean() for values in parts.values()) + spread
    edges = np.linspace(low, high, bins + 1)
    width = edges[1] - edges[0]
    frame = pd.DataFrame({"value": (edges[1:] + edges[:-1]) / 2})
    for name, values in parts.items():
        counts = np.histogram(values, edges)[0] / (len(values) * width)
        bandwidth = 1.06 * values.std() * len(values) ** -0.2 / width  # in bins
        frame[name] = gaussian_filter1d(counts, max(bandwidth, 0.3), mode="constant")
    return frame


def noise_moments(parts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean, standard deviation, and correlation with W of each part, one row a part.

    Args:
        parts: of `noise_parts`.
    """
    frame = pd.DataFrame({"part": list(parts)})
    frame["mean"] = [values.mean() for values in parts.values()]
    frame["sd"] = [values.std() for values in parts.values()]
    still = [values.std() < 1e-12 for values in parts.values()]
    frame["correlation"] = [
        np.nan if constant else np.corrcoef(parts["W"], values)[0, 1]
        for constant, values in zip(still, parts.values(), strict=True)
    ]
    return frame


def _noise_view(fig, sources, source=NORMAL, d=0.5, m=0.0, sigma=1.0):
    weights = sources[source]
    parts = noise_parts(weights, d, m, sigma)
    frame, moments = noise_table(parts), noise_moments(parts)
    space = {"left": 0.105, "right": 0.985, "top": 0.89, "bottom": 0.255}
    ax = fig.subplots(gridspec_kw=space)
    styles = (
        {"color": INK, "linestyle": "-", "linewidth": 3.4, "alpha": 0.35},
        {"color": BLUE, "linestyle": "--"},
        {"color": ORANGE, "linestyle": ":", "linewidth": 2.2},
        {"color": RED, "linestyle": "-."},
    )
    for name, style in zip(PARTS, styles, strict=True):
        ax.plot(frame["value"], frame[name], label=name, **style)
    # A narrow d·W would press the others to the ground; its peak may leave the picture.
    shown = frame[["W", "d·W + n"]].max().max()
    ax.set(ylim=(0, 1.9 * shown), xlim=(frame["value"].iloc[0], frame["value"].iloc[-1]))
    ax.set(xlabel="Value of a weight", ylabel="Density (1 / unit of weight)")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    _legend(fig, [ax], ncols=4)
    title = f"Noise fills what W loses: {source}, d = {d:.2f}"
    html_title(fig, title)
    own, total = moments.iloc[0], moments.iloc[-1]
    spread = f"standard deviation {total['sd']:.3g} of d·W + n against {own['sd']:.3g} of W"
    fig.alt_text = f"{title}: densities of W, d·W, noise and their sum; {spread}."
    table = moments.rename(columns={"correlation": "correlation with W", "sd": "standard deviation"})
    for column in table.columns[1:]:
        table[column] = table[column].map(lambda value: f"{value:.4g}", na_action="ignore")
    law = _noise_law(d, m, sigma)
    return Reading(f"<p>{law}</p>{html_table(table)}", _noise_remark(own, m, sigma, weights))


def _noise_law(d: float, m: float, sigma: float) -> str:
    mean, std = noise.moments(d, m, sigma)
    return f"n ~ N((1 − d)·m, (1 − d²)·σ²) = N({mean:.4g}, {std:.4g}²), drawn anew at every step."


def _noise_remark(own: pd.Series, m: float, sigma: float, weights) -> str:
    if weights is None or (abs(m - own["mean"]) < 0.1 * own["sd"] and 0.9 < sigma / own["sd"] < 1.1):
        return ""
    return (
        f"m and σ are not those of W ({own['mean']:.4g} and {own['sd']:.4g}), so the sum does not "
        "keep W's mean and spread. Press Reset, or choose the layer again, for W's own."
    )


def _sources(weights) -> dict[str, np.ndarray | None]:
    """What W can be: the arrays that were given, by name, and a normal."""
    if weights is None:
        weights = {}
    elif not isinstance(weights, Mapping):
        weights = {"the given weights": weights}
    named = {str(name): np.asarray(values, "float64") for name, values in weights.items()}
    return {**named, NORMAL: None}


def _own_moments(weights: np.ndarray | None) -> tuple[float, float]:
    if weights is None:
        return 0.0, 1.0
    return float(f"{weights.mean():.4g}"), float(f"{weights.std():.4g}")


def noise_explorer(weights: np.ndarray | Mapping[str, np.ndarray] | None = None) -> Explorer:
    """Widget 2: d, m and sigma against the densities of W, d W, the noise and their sum (slide 14).

    Args:
        weights: the kernel of a trained layer, or a mapping name -> kernel, of any shapes; a normal can
            always be chosen. m and sigma are taken over all values of a kernel.

    Example:
        >>> widget = noise_explorer({"dense": np.random.default_rng(0).laplace(size=(64, 32))})
        >>> widget.controls["d"].value = 0.2
    """
    sources = _sources(weights)
    first = next(iter(sources))
    mean, std = _own_moments(sources[first])
    live = {"continuous_update": True}
    controls = {
        "source": dropdown("weights W", first, list(sources)),
        "d": _fraction("d (decay)", 0.5),
        "m": make_control(ipywidgets.FloatText, "m (mean)", mean, step=std / 10, **live),
        "sigma": make_control(ipywidgets.FloatText, "σ (sd of W)", std, step=std / 10, **live),
    }

    def view(fig, **settings):
        return _noise_view(fig, sources, **settings)

    explorer = Explorer(view, controls, 3.7)

    def follow(change):  # another W comes with its own m and σ
        mean, std = _own_moments(sources[change["new"]])
        controls["m"].step = controls["sigma"].step = std / 10
        explorer.set(m=mean, sigma=std)
        explorer.update()

    # In place of the explorer's own reaction, which would draw the new W with the old m and σ.
    controls["source"].unobserve(explorer.update, names="value")
    controls["source"].observe(follow, names="value")
    return explorer


def noise_explorer_static(weights=None, d: float = 0.5) -> Figure:
    """The picture of `noise_explorer`, as a figure; of several arrays the first."""
    sources = _sources(weights)
    first = next(iter(sources))
    mean, std = _own_moments(sources[first])
    return still_figure(_noise_view, 3.7, sources=sources, source=first, d=d, m=mean, sigma=std)


# --- 3. ranks -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """All that the rank of one layer is chosen by.

    Args:
        name: the layer's path.
        rule: its `clora_lab.factors.Rule`.
        parameters: of the layer as it is, its bias included.
        bias: number of elements of its bias, 0 if it has none.
        flops: 2 x multiply-adds of one example.
        output: whether the layer makes the model's output (it is compressed only when it is named).
        singular: the singular values of its matrix, falling, in units of a weight.
    """

    name: str
    rule: factors.Rule
    parameters: int
    bias: int
    flops: int
    output: bool
    singular: np.ndarray

    def kept(self, rank: int) -> float:
        """Share of the squared singular values, the energy of W, that the best pair of a rank keeps."""
        energy = self.singular**2
        return float(energy[: self.rule.inner(rank)].sum() / (energy.sum() or 1.0))

    def pair_flops(self, rank: int) -> int:
        """2 x multiply-adds of one example through the pair."""
        if isinstance(self.rule, factors.ConvLoralibRule):
            return self.flops  # its product runs as the full kernel
        return self.flops * self.rule.parameters(rank) // self.rule.kernel_size


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """The layers of a model that can be factored, by name, and the parameters of the whole."""

    name: str
    layers: dict[str, LayerFacts]
    parameters: int
    output_parameters: int

    def chosen(self, layer: str = WHOLE) -> list[LayerFacts]:
        """One layer, or all that `clora_lab.compress` takes by itself (not the output layer)."""
        if layer == WHOLE:
            return [facts for facts in self.layers.values() if not facts.output]
        return [self.layers[_checks.one_of("layer", layer, self.layers)]]


def layer_facts(model: keras.Model, factorization: str = "pair") -> ModelFacts:
    """Read a model once: one singular value decomposition a layer, after which every rank is arithmetic.

    Args:
        model: a built Sequential or Functional model, not compressed.
        factorization: for Conv2D, "pair" or "loralib".

    Raises:
        ValueError: if the model is not built, or no layer of it but the output can be factored.
    """
    surgery.check_model(model)
    outputs = surgery.output_layers(model)
    paths = dict(surgery.walk(model))
    surgery.choose(model, paths, None, factorization)
    found = {}
    for path, layer in paths.items():
        if not factors.supported(layer, factorization):
            continue
        rule = factors.rule(layer, factorization)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        found[path] = LayerFacts(
            name=path,
            rule=rule,
            parameters=layer.count_params(),
            bias=0 if layer.bias is None else math.prod(layer.bias.shape),
            flops=accounting.flops(layer),
            output=id(layer) in outputs,
            singular=np.linalg.svd(rule.to_matrix(kernel), compute_uv=False).astype("float64"),
        )
    return ModelFacts(
        name=model.name,
        layers=found,
        parameters=model.count_params(),
        output_parameters=sum(p.count_params() for p in paths.values() if id(p) in outputs),
    )


def rank_table(facts: ModelFacts, rank: int, layer: str = WHOLE, keep_bias: bool = True) -> pd.DataFrame:
    """What a rank stores, computes and keeps: one row a compressed layer, their sum last.

    Args:
        facts: of `layer_facts`.
        rank: of every pair.
        layer: a layer's name, or `WHOLE`.
        keep_bias: whether each pair gets a bias, as the methods "bias" and "noise_bias" do.

    Returns:
        A data frame with the columns layer, max_rank, break_even_rank, original_parameters, parameters,
        original_flops, flops, energy_kept (fraction of the squared singular values; of the sum: of all).

    Raises:
        ValueError: if a layer does not allow the rank; the message names the limit.

    Example:
        >>> facts = layer_facts(toy_mlp())  # doctest: +SKIP
        >>> rank_table(facts, 16)["parameters"].tolist()  # doctest: +SKIP
        [16896, 6272, 23168]
    """
    chosen = facts.chosen(layer)
    for each in chosen:
        factors.check_rank(each.rule, rank)
    rows = [
        {
            "layer": each.name,
            "max_rank": each.rule.max_rank,
            "break_even_rank": each.rule.break_even_rank,
            "original_parameters": each.parameters,
            "parameters": each.rule.parameters(rank) + keep_bias * math.prod(each.rule.bias_shape),
            "original_flops": each.flops,
            "flops": each.pair_flops(rank),
            "energy_kept": each.kept(rank),
        }
        for each in chosen
    ]
    frame = pd.DataFrame(rows)
    total = frame[["original_parameters", "parameters", "original_flops", "flops"]].sum()
    energy = np.array([(each.singular**2).sum() for each in chosen])
    total = {
        "layer": "sum",
        "max_rank": int(frame["max_rank"].min()),
        "break_even_rank": _break_even(chosen),
        **total.astype("int64").to_dict(),
        "energy_kept": float(energy @ frame["energy_kept"] / (energy.sum() or 1.0)),
    }
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)[list(frame.columns)]


def _break_even(chosen: Sequence[LayerFacts]) -> int:
    """The smallest rank at which the pairs together are no smaller than the kernels."""
    kernels = sum(each.rule.kernel_size for each in chosen)
    return math.ceil(kernels / sum(each.rule.parameters(1) for each in chosen))


def rank_ratios(facts: ModelFacts, rank: int, layer: str = WHOLE, keep_bias: bool = True) -> dict[str, float]:
    """The compression ratio under each convention of `clora_lab.CONVENTIONS`, as fractions.

    The same as `clora_lab.ratio` of the compressed model, which need not be made for it.

    Args: see `rank_table`.
    """
    total = rank_table(facts, rank, layer, keep_bias).iloc[-1]
    left, before = int(total["parameters"]), int(total["original_parameters"])
    counted = left
    if not keep_bias:  # the slides count a bias for each compressed layer that had one
        counted += sum(each.bias for each in facts.chosen(layer))
    return {
        "slides": counted / facts.parameters,
        "slides_head": (counted + facts.output_parameters) / facts.parameters,
        "model": (facts.parameters - before + left) / facts.parameters,
        "layers": left / before,
    }


def _rank_view(fig, facts, layer=WHOLE, rank=16, keep_bias=True):
    table, ratios = (f(facts, rank, layer, keep_bias) for f in (rank_table, rank_ratios))
    chosen, total = facts.chosen(layer), table.iloc[-1]
    space = {"left": 0.11, "right": 0.97, "top": 0.87, "bottom": 0.18, "hspace": 0.6, "wspace": 0.44}
    (spectrum, energy), (size, bars) = fig.subplots(2, 2, gridspec_kw=space)
    for each, style in zip(chosen, _layer_styles(len(chosen)), strict=True):
        ranks = np.arange(1, len(each.singular) + 1) / each.rule.inner(1)
        spectrum.plot(ranks, each.singular, label=each.name, **style)
        kept = np.cumsum(each.singular**2) / ((each.singular**2).sum() or 1.0)
        energy.plot(ranks, 100 * kept, **style)
    spectrum.set(title="Singular values of W", ylabel="Units of weight")
    energy.set(title="Energy of W that is kept", ylabel="Percent", ylim=(0, 104))
    energy.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    most, even = int(total["max_rank"]), int(total["break_even_rank"])
    ends = np.array([0, max(most, math.ceil(1.15 * even))])
    pairs = ends * sum(each.rule.parameters(1) for each in chosen)
    size.plot(ends, pairs, color=RED, label="pair (B·A)")
    size.axhline(sum(each.rule.kernel_size for each in chosen), color=INK, label="W")
    size.plot([even], [even * pairs[1] / ends[1]], marker="o", color=INK, linestyle="")
    place = {"xycoords": "axes fraction", "va": "top", "bbox": {"facecolor": "white", "lw": 0, "pad": 1}}
    size.annotate(f"break-even: rank {even}", (0.03, 0.97), **place)
    size.axvline(even, color=FAINT, linestyle=":", linewidth=1.4)
    size.set(title="Parameters of kernels", xlim=ends, ylim=(0, 1.35 * pairs[1]))
    size.yaxis.set_major_formatter(FuncFormatter(_thousands))
    for ax in (spectrum, energy, size):
        ax.axvline(rank, color=RED, linewidth=1.2, linestyle="--")
        ax.set_xlabel("Rank r")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in (spectrum, size):
        ax.yaxis.set_major_locator(MaxNLocator(4))
    spectrum.set_ylim(bottom=0)
    _ratio_bars(bars, ratios)
    _legend(fig, [spectrum, size], ncols=4)
    where = f"all layers of {facts.name}" if layer == WHOLE else f"layer {layer} of {facts.name}"
    title = f"Rank {rank} for {where}"
    html_title(fig, title)
    fig.alt_text = (
        f"{title}: {total['parameters']:,} of {total['original_parameters']:,} parameters, "
        f"{_percent(total['energy_kept'])} of the energy kept, break-even at rank {even}; ratio "
        + ", ".join(f"{name} {_percent(value)}" for name, value in ratios.items())
    ) + "."
    over = rank >= even
    remark = f"At rank {rank} the pairs are no smaller than W: choose a rank below {even}." if over else ""
    return Reading(_rank_text(table, facts), remark)


def _layer_styles(count: int) -> list[dict]:
    if count <= 6:
        return [{**style, "marker": ""} for style in figures._cycle(count)]
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, count))
    return [{"color": color, "linewidth": 1.2} for color in colors]


def _thousands(value: float, position=None) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _ratio_bars(ax: Axes, ratios: Mapping[str, float]) -> None:
    names = list(ratios)[::-1]
    values = [100 * ratios[name] for name in names]
    limit = max(100.0, *values) * 1.32
    ax.barh(names, values, color=[BLUE, ORANGE, GREY, INK], alpha=0.75, height=0.62)
    for y, value in enumerate(values):
        ax.text(value + limit / 60, y, f"{value:.2f}%", va="center")
    ax.axvline(100, color=FAINT, linewidth=1)
    ax.set(title="Ratio, by convention", xlim=(0, limit), xlabel="Percent of the original")
    ax.grid(axis="y", visible=False)


def _rank_text(table: pd.DataFrame, facts: ModelFacts) -> str:
    shown = pd.DataFrame({"layer": table["layer"]})
    shown["largest rank"] = table["max_rank"]
    shown["break-even rank"] = table["break_even_rank"]
    for name, label in (("parameters", "parameters"), ("flops", "FLOPs an example")):
        before, after = table[f"original_{name}"], table[name]
        shown[label] = [f"{b:,} → {a:,}" for b, a in zip(before, after, strict=True)]
    shown["energy kept"] = table["energy_kept"].map(_percent)
    meanings = "; ".join(f"<b>{n}</b>: {html.escape(t)}" for n, t in cl.CONVENTIONS.items())
    return (
        f"{html_table(shown)}<p>{html.escape(facts.name)}: {facts.parameters:,} parameters in all.</p>"
        f"<details><summary>What the four ratios count</summary>{meanings}.</details>"
    )


def rank_explorer(model: keras.Model, factorization: str = "pair") -> Explorer:
    """Widget 3: a layer or the whole model and a rank against size, FLOPs, spectrum and energy kept.

    The ratio is shown under each convention of `clora_lab.CONVENTIONS`, the break-even rank is marked.

    Args: see `layer_facts`.

    Example:
        >>> widget = rank_explorer(keras.Sequential(
        ...     [keras.Input((64,)), keras.layers.Dense(32), keras.layers.Dense(10)]))
        >>> widget.controls["rank"].value = 4
    """
    facts = layer_facts(model, factorization)
    largest = max(each.rule.max_rank for each in facts.layers.values())
    controls = {
        "layer": dropdown("layer", WHOLE, [WHOLE, *facts.layers]),
        "rank": make_control(ipywidgets.IntSlider, "rank r", _first_rank(facts), min=0, max=largest + 4),
        "keep_bias": make_control(ipywidgets.Checkbox, "keep a bias c", True),
    }

    def view(fig, **settings):
        return _rank_view(fig, facts, **settings)

    return Explorer(view, controls, 5.0)


def _first_rank(facts: ModelFacts) -> int:
    return min(16, *(each.rule.max_rank for each in facts.chosen()), _break_even(facts.chosen()))


def rank_explorer_static(model: keras.Model, rank: int | None = None, factorization: str = "pair") -> Figure:
    """The picture of `rank_explorer` for the whole model, as a figure."""
    facts = layer_facts(model, factorization)
    return still_figure(_rank_view, 5.0, facts=facts, rank=rank or _first_rank(facts))


# --- 4. results ---------------------------------------------------------------------------------

METRICS = {"accuracy": "Accuracy (%)", "loss": "Loss (nats)", "seconds": "Training time (s)"}
RATIOS = {"slides": "ratio_percent", "model": "ratio_model_percent"}
RESULT_VIEWS = {"BA alone": "compressed", "what trains (d·W + BA)": "trained"}
ALL_RANKS = "all"


def results_summary(
    results: pd.DataFrame,
    study: str,
    variant: str = "slides",
    split: str = "test",
    metric: str = "accuracy",
    view: str = "compressed",
    ratio: str = "slides",
) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of a metric, beside the ratio, by method and rank.

    Args:
        results: recorded rows, as of `ResultsStore.read`.
        study: "study, dataset", as `studies_in` lists them.
        variant: name of the recipe.
        split: "validation" or "test".
        metric: "accuracy" (fraction), "loss" (nats) or "seconds".
        view: "compressed" (B A alone, where it was measured, else what was trained) or "trained".
        ratio: how parameters are counted, "slides" or "model"; see `clora_lab.CONVENTIONS`.

    Returns:
        A data frame with the columns method, rank, ratio_percent, mean, sd (ddof 1; empty for one seed),
        n (seeds).

    Raises:
        ValueError: if there are no such rows; the message says which there are.
    """
    figures._require(results, "results", ["study", "dataset", "variant", "method", "rank", "seed"])
    rows = studies_in(results)[_checks.one_of("study", study, studies_in(results))]
    rows = rows[rows["variant"] == variant]
    named = {"variant": variant, "split": split, "metric": metric}
    values = rows[rows["metric"] == _checks.one_of("metric", metric, METRICS)]
    if metric != "seconds":
        order = {view: 0, "trained": 1}
        _checks.one_of("view", view, RESULT_VIEWS.values())
        values = values[(values["split"] == split) & values["view"].isin(order)]
        values = values.assign(order=values["view"].map(order)).sort_values("order")
    values = values.drop_duplicates("config")
    if values.empty:
        raise ValueError(
            f"There are no rows of {study} with {named}. Choose another: the variants are "
            f"{sorted(studies_in(results)[study]['variant'].unique())}."
        )
    by = ["method", "rank"]
    column = RATIOS[_checks.one_of("ratio", ratio, RATIOS)]
    frame = values.groupby(by)["value"].agg(mean="mean", sd="std", n="size")
    frame["ratio_percent"] = rows[rows["metric"] == column].groupby(by)["value"].mean()
    return frame.reset_index()[["method", "rank", "ratio_percent", "mean", "sd", "n"]]


def studies_in(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each study and data set, by 'study, printed name of the data set'."""
    return {
        f"{study}, {figures.dataset_label(dataset)}": rows
        for (study, dataset), rows in results.groupby(["study", "dataset"])
    }


def results_curves(
    history: pd.DataFrame,
    study: str,
    variant: str,
    methods: Sequence[str],
    rank: int,
    metric: str = "accuracy",
    view: str = "compressed",
) -> pd.DataFrame:
    """Mean over the seeds of the validation metric by epoch, a column a method.

    Args:
        history: recorded epochs, as of `ResultsStore.read_history`.
        rank: of the methods that have one; the dense net is taken along.
        others: see `results_summary`.
    """
    rows = studies_in(history).get(study, history.iloc[:0])
    rows = rows[(rows["variant"] == variant) & rows["rank"].isin([0, rank])]
    own = f"val_{metric}" if view == "trained" else f"val_compressed_{metric}"
    values = rows[own].fillna(rows[f"val_{metric}"])  # the baselines have but one view
    frame = rows.assign(value=values).pivot_table("value", "epoch", "method", aggfunc="mean")
    return frame[[method for method in methods if method in frame]]


def _results_view(
    fig, results, history, study, variant="slides", methods=(), rank=ALL_RANKS, split="test",
    metric="accuracy", view="compressed", ratio="slides",
):  # fmt: skip
    summary = results_summary(results, study, variant, split, metric, view, ratio)
    points = summary[summary["method"].isin(methods)]
    if rank != ALL_RANKS:
        points = points[points["rank"].isin([0, rank])]
    if points.empty:
        has = summary[["method", "rank"]].drop_duplicates()
        has = ", ".join(f"{m} {r}" for m, r in has.itertuples(index=False))
        raise ValueError(f"No rows for this choice. Choose a method and rank among: {has}.")
    space = {"left": 0.1, "right": 0.985, "top": 0.91, "bottom": 0.335, "wspace": 0.2}
    axes = fig.subplots(1, 1 if history is None else 2, squeeze=False, gridspec_kw=space)[0]
    _points(axes[0], points, metric)
    for ax in axes:
        ax.set_ylabel(METRICS[metric])
        if metric == "accuracy":
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes[0].set_xlabel("Parameters left (%), log scale")
    if history is not None:
        first = min([r for r in points["rank"] if r] or [0]) if rank == ALL_RANKS else rank
        wanted = [method for method in methods if method in set(points["method"])]
        _result_curves(axes[1], history, study, variant, wanted, first, metric, view)
    _legend(fig, axes, ncols=3)
    where = "" if metric == "seconds" else f", {split} set"
    title = f"{METRICS[metric].partition(' (')[0]} against parameters left: {study}{where}"
    html_title(fig, title)
    shown = _results_text(points, metric)
    counts = f"means ± 1 sd, of up to {points['n'].max()} seeds" if points["n"].max() > 1 else "one seed"
    fig.alt_text = f"{title}, variant {variant}, {counts}: " + "; ".join(
        f"{m} {v}" for m, v in zip(shown["method, rank"], shown["value"], strict=True)
    )
    baseline = (summary["method"] == "dense").any()
    remark = "" if baseline else f"No dense net is recorded in the variant {variant}."
    return Reading(f"<p>{counts.capitalize()}.</p>{html_table(shown)}", remark)


def _points(ax: Axes, points: pd.DataFrame, metric: str) -> None:
    dense = points[points["method"] == "dense"]
    for row in dense.itertuples():
        spread = 0.0 if np.isnan(row.sd) else row.sd
        ax.axhspan(row.mean - spread, row.mean + spread, color=INK, alpha=0.15, linewidth=0)
        ax.axhline(row.mean, color=INK, linewidth=1.4, label=figures.method_label("dense"))
    points = points[points["method"] != "dense"]
    methods = [method for method in figures.METHOD_LABELS if (points["method"] == method).any()]
    for index, method in enumerate(methods):
        rows = points[points["method"] == method]
        aside = 1.0 + 0.03 * (index - (len(methods) - 1) / 2)  # points of one ratio side by side
        ax.errorbar(
            rows["ratio_percent"] * aside,
            rows["mean"],
            yerr=rows["sd"].fillna(0.0),
            label=figures.method_label(method),
            capsize=2.5,
            elinewidth=1.4,
            **{**METHOD_STYLES[method], "linestyle": "", "markersize": 6.5},
        )
    marks = points.groupby("rank")["ratio_percent"].median().sort_values()
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(marks, [f"{value:.1f}\nrank {rank}" for rank, value in marks.items()])
    if len(marks):
        ax.set_xlim(marks.min() / 1.45, marks.max() * 1.45)
    ax.grid(axis="x", visible=False)
    _name_outliers(ax, pd.concat([dense, points]), metric)


def _name_outliers(ax: Axes, points: pd.DataFrame, metric: str) -> None:
    """Leave out of the axis what was not trained and lies far off, and write its value at the edge."""
    core = points[points["method"] != "svd"]
    if core.empty or len(core) == len(points):
        return
    spread = core["sd"].fillna(0.0)
    low, high = (core["mean"] - spread).min(), (core["mean"] + spread).max()
    margin = 0.12 * (high - low) or 0.05 * high
    low, high = low - 2.5 * margin, high + margin
    far = points[(points["mean"] < low) | (points["mean"] > high)]
    if far.empty:
        return
    ax.set_ylim(low, high)
    for row in far.itertuples():
        below = row.mean < low
        value = f"{100 * row.mean:.0f}%" if metric == "accuracy" else f"{row.mean:.2g}"
        text = f"SVD {value}\n▼" if below else f"▲\nSVD {value}"
        place = {"ha": "center", "va": "bottom" if below else "top", "color": FAINT}
        ax.text(row.ratio_percent, low if below else high, text, **place)


def _result_curves(ax, history, study, variant, methods, rank, metric, view) -> None:
    if metric not in ("accuracy", "loss"):
        ax.set_axis_off()
        ax.text(0.5, 0.5, "There are no curves\nof this metric.", ha="center", color=FAINT)
        return
    curves = results_curves(history, study, variant, methods, rank, metric, view)
    for method in curves:
        mean = curves[method].dropna()
        style = {**METHOD_STYLES[method], "markevery": max(1, len(mean) // 6)}
        ax.plot(mean.index, mean, label=figures.method_label(method), **style)
    ax.set_xlabel(f"Epoch (validation, rank {rank})")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _results_text(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    scale, unit = (100, "%") if metric == "accuracy" else (1, "")
    order = list(figures.METHOD_LABELS)
    points = points.sort_values(
        ["rank", "method"], key=lambda c: c.map(order.index) if c.name == "method" else c
    )
    spread = points["sd"].map(lambda sd: "" if np.isnan(sd) else f" ± {scale * sd:.2f}")
    ranks = points["rank"].map(lambda rank: f", {rank}" if rank else "")
    return pd.DataFrame(
        {
            "method, rank": points["method"].map(figures.method_label) + ranks,
            "parameters left (%)": points["ratio_percent"].map("{:.2f}".format),
            "value": points["mean"].map(lambda mean: f"{scale * mean:.2f}") + spread + unit,
            "seeds": points["n"],
        }
    )


def results_explorer(results: pd.DataFrame, history: pd.DataFrame | None = None) -> Explorer:
    """Widget 4: study, method, rank and metric against the ratio, with baselines and ± bars.

    Args:
        results: recorded rows, as of `ResultsStore.read`.
        history: recorded epochs, as of `ResultsStore.read_history`, for curves beside the points.

    Raises:
        ValueError: if `results` has no rows or lacks columns.

    Example:
        >>> widget = results_explorer(results, history)  # doctest: +SKIP
        >>> widget.controls["rank"].value = 16  # doctest: +SKIP
    """
    first = _first_results(results)
    methods = first.pop("methods")
    labels = [(figures.method_label(method), method) for method in methods]
    variants = list(dict.fromkeys(results["variant"]))
    ranks = sorted(int(rank) for rank in results["rank"].unique() if rank)
    controls = {
        "study": dropdown("study", first["study"], list(studies_in(results))),
        "variant": dropdown("variant", first["variant"], variants),
        "methods": make_control(
            ipywidgets.SelectMultiple, "methods", methods, options=labels, rows=len(labels)
        ),
        "rank": dropdown("rank", ALL_RANKS, [ALL_RANKS, *ranks]),
        "metric": dropdown("metric", "accuracy", list(METRICS)),
        "split": dropdown("data", "test", ["validation", "test"]),
        "view": dropdown("evaluated", "compressed", list(RESULT_VIEWS.items())),
        "ratio": dropdown("ratio counted as", "slides", list(RATIOS)),
    }

    def view(fig, **settings):
        return _results_view(fig, results, history, **settings)

    return Explorer(view, controls, 4.4)


def _first_results(results: pd.DataFrame) -> dict:
    """The settings that are shown first, with every method that is recorded."""
    needed = ["study", "dataset", "variant", "method", "rank", "seed", "split", "view", "metric"]
    figures._require(results, "results", [*needed, "value", "config"])
    study, rows = next(iter(studies_in(results).items()))
    variants = list(dict.fromkeys(rows["variant"]))
    variant = "slides" if "slides" in variants else variants[0]
    recorded = set(results["method"])
    methods = tuple(method for method in figures.METHOD_LABELS if method in recorded)
    return {"study": study, "variant": variant, "methods": methods}


def results_explorer_static(results: pd.DataFrame, history: pd.DataFrame | None = None, **settings) -> Figure:
    """The picture of `results_explorer`, as a figure; settings as the widget's controls."""
    settings = {**_first_results(results), **settings}
    return still_figure(_results_view, 4.4, results=results, history=history, **settings)


# --- 5. live training ---------------------------------------------------------------------------

REDRAW_SECONDS = 0.3
TRAINING_LINES = (  # label, column of the history, look
    (figures.TRAINED, "val_{}", {"color": BLUE, "marker": "o"}),
    (figures.COMPRESSED, "val_compressed_{}", {"color": RED, "marker": "s", "linestyle": "--"}),
)


class TrainingPicture:
    """Accuracy, loss and decay against epoch, in both views; it is filled while the net trains.

    Its artists are made once and only moved afterwards: drawing is done by the training thread, and
    Matplotlib's settings, which belong to all threads, must not change there.

    Args:
        epochs: length of the horizontal axis.
        title: printed above.
    """

    HEIGHT = 4.1

    def __init__(self, epochs: int, title: str):
        self.title = title
        self.figure = _empty_figure(self.HEIGHT)
        space = {"left": 0.1, "right": 0.985, "top": 0.89, "bottom": 0.24, "wspace": 0.25}
        with mpl.rc_context(STYLE):
            grid = self.figure.subplots(
                2, 2, sharex=True, height_ratios=[3.6, 1], gridspec_kw={**space, "hspace": 0.13}
            )
            self.axes = dict(zip(("accuracy", "loss"), grid[0], strict=True))
            self.lines = {
                column.format(metric): ax.plot([], [], label=label, markersize=3.5, **style)[0]
                for metric, ax in self.axes.items()
                for label, column, style in TRAINING_LINES
            }
            style = {"color": INK, "linestyle": ":", "linewidth": 1.4, "label": "Validation, original"}
            self.dense = {metric: ax.plot([], [], **style)[0] for metric, ax in self.axes.items()}
            self.axes["accuracy"].set(ylim=(0, 1.02), ylabel="Accuracy (%)")
            self.axes["accuracy"].yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
            self.axes["loss"].set(ylim=(0, 1), ylabel="Loss (nats)")
            for ax, column, label in zip(grid[1], ("decay", "noise"), ("d", "noise (σ)"), strict=True):
                look = {"color": GREY if column == "decay" else ORANGE, "linewidth": 2}
                self.lines[column] = ax.plot([], [], **look)[0]
                ax.set(ylim=(-0.05, 1.1), yticks=[0, 1], xlabel="Epoch", ylabel=label)
                ax.set_xlim(0, max(epochs, 1))
                ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            for ax in grid.flat:
                ax.tick_params(labelsize=9, labelcolor=INK)
                ax.yaxis.set_label_coords(-0.145, 0.5)
            _legend(self.figure, [grid[0, 0]], ncols=2)
            html_title(self.figure, title)
        self.figure.alt_text = f"{title}: no epoch yet."

    def draw(self, history: pd.DataFrame, original: Mapping[str, float] | None = None) -> Figure:
        """Move the curves to the epochs of `history`; `original`: accuracy and loss before compression."""
        for column, line in self.lines.items():
            if column in history:
                line.set_data(history["epoch"], history[column].astype("float64"))
        for metric, value in (original or {}).items():
            self.dense[metric].set_data(self.axes[metric].get_xlim(), [value, value])
        losses = history.filter(regex="loss$").astype("float64").to_numpy()
        losses = losses[np.isfinite(losses)]
        if len(losses):
            # The compressed path may start at a huge loss, in which the rest would not be seen.
            top = min(losses.max(), 4 * np.median(losses))
            self.axes["loss"].set_ylim(0, 1.08 * top or 1)
        if len(history):
            self.figure.alt_text = f"{self.title}: {_training_text(history)}"
        return self.figure


def _training_text(history: pd.DataFrame) -> str:
    last = history.iloc[-1]
    return (
        f"at epoch {last['epoch']:.3g}, d = {last['decay']:.3f}, the validation accuracy is "
        f"{_percent(last['val_accuracy'])} for what trains (d·W + BA) and "
        f"{_percent(last['val_compressed_accuracy'])} for BA alone."
    )


class _Watch(keras.callbacks.Callback):
    """Hands the course of a training on to the widget, and the widget's wish to stop to the training."""

    def __init__(self, widget: LiveTraining):
        super().__init__()
        self.widget = widget

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.epoch * self.widget.steps + batch + 1
        if self.widget._stop.is_set():
            self.model.stop_training = True
        self.widget._show_progress(self.step)

    def on_epoch_end(self, epoch, logs=None):
        self.widget._record(self.step, logs)


class LiveTraining(ipywidgets.VBox):
    """A C-LoRA training with a start and a stop button, and curves that grow; see `live_training`.

    It trains in a thread, so the kernel stays free. An error of that thread appears in the message and
    is kept as `error`.

    Attributes:
        controls: method, rank, schedule (kind), begin, end, floor, epochs.
        state: "ready", "running", "stopped", "finished" or "failed".
        model: the wrapped net, from the start of a training on; usable after a stop as well.
        small: the finalized net once the decay is over, or once `finalize(force=True)` was called; else None.
        history: a data frame with a row an epoch: epoch (a fraction after a stop), step, decay, noise,
            accuracy and loss (in training), val_ and val_compressed_ accuracy and loss (fractions, nats).
        error: what ended a failed training, or None.
    """

    def __init__(
        self, model, data, epochs=10, batch_size=30, learning_rate=1e-3, rank=None,
        method="noise_bias", targets=None, seed=0,
    ):  # fmt: skip
        self._thread, self._stop, self._drawn = None, threading.Event(), 0.0
        self.original, self.targets, self.seed = model, targets, seed
        self.x, self.y, self.x_val, self.y_val = _training_data(data)
        self.batch_size = _checks.positive_int("batch_size", batch_size)
        self.learning_rate = _checks.real("learning_rate", learning_rate, 1e-12, 1e3)
        self.steps = -(-len(self.x) // self.batch_size)  # an epoch
        surgery.check_model(model)
        paths = dict(surgery.walk(model))
        chosen = surgery.choose(model, paths, targets, "pair")
        self._rules = [factors.rule(paths[path]) for path in chosen]
        self.model = self.small = self.error = None
        self.state, self.history = "ready", pd.DataFrame()
        self.controls = self._make_controls(method, rank, _checks.positive_int("epochs", epochs))
        self._make_widgets()
        for control in self.controls.values():
            control.observe(self._check, names="value")
        self._check()
        fig = TrainingPicture(epochs, "Live training: press Start").figure
        self.image.value, self.text.value = _png(fig), _alt(fig.alt_text)

    def _make_controls(self, method, rank, epochs):
        largest = max(rule.max_rank for rule in self._rules)
        if rank is None:
            rank = min(16, *(rule.break_even_rank // 2 for rule in self._rules))
        whole = {"min": 0, "continuous_update": True}
        methods = [(figures.method_label(name), name) for name in layers.METHODS]
        kinds = [kind for kind in schedules.SCHEDULES if kind != "constant"]
        return {
            "method": dropdown("method", method, methods),
            "rank": make_control(ipywidgets.IntSlider, "rank r", rank, max=largest + 4, **whole),
            "schedule": dropdown("schedule", "linear", kinds),
            "begin": _fraction("begin (of all steps)", 0.05),
            "end": _fraction("end (of all steps)", 0.85),
            "floor": _fraction("floor (last d)", 0.0),
            "epochs": make_control(ipywidgets.IntSlider, "epochs", epochs, max=max(30, 2 * epochs), **whole),
        }

    def _make_widgets(self):
        button = ipywidgets.Button
        self.start_button = button(description="Start", icon="play", button_style="primary")
        self.stop_button = button(description="Stop", icon="stop", disabled=True)
        self.force_button = button(
            description="Finalize anyway", icon="compress", disabled=True,
            tooltip="Drop what is left of W now, and keep BA alone as .small",
        )  # fmt: skip
        self.start_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.stop())
        self.force_button.on_click(lambda button: self._finalize_clicked())
        self.progress = ipywidgets.FloatProgress(
            min=0, max=1, layout=ipywidgets.Layout(width="14em", max_width="98%")
        )
        self.status, self.message = ipywidgets.HTML("Ready."), ipywidgets.HTML()
        self.text = ipywidgets.HTML()
        self.image = _image()
        buttons = [self.start_button, self.stop_button, self.force_button, self.progress, self.status]
        rows = [_row(list(self.controls.values())), _row(buttons), self.message, self.image, self.text]
        super().__init__([ipywidgets.HTML(CSS), *rows])

    @property
    def running(self) -> bool:
        """Whether a training is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Compress the original anew with the present settings and train it, in a thread.

        While a training is running nothing happens; settings that can't be had become the message.
        """
        if self.running or not self._check():
            return
        values = {name: control.value for name, control in self.controls.items()}
        self._stop.clear()
        self.model = self.small = self.error = None
        self.history = pd.DataFrame()
        self._picture = TrainingPicture(values["epochs"], self.html_title(values))
        self._go("running", "Building the net …")
        # The thread inherits the context, so that what it prints lands below this cell.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run, values), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask a running training to end after its present step; `wait` waits until it has."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the training has ended, for at most `timeout` seconds; whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.running

    def close(self) -> None:
        self.stop()
        super().close()

    def finalize(self, force: bool = False) -> keras.Model:
        """Set `small` to the finalized net and return it.

        Args:
            force: drop what is left of W even though the decay is not over.

        Raises:
            ValueError: if there is no trained net yet, or if its decay is not over and not `force`.
        """
        if self.running or self.model is None:
            raise ValueError("There is no trained net yet: press Start, and Stop when you have enough.")
        self.small = cl.finalize(self.model, force=force)
        self.force_button.disabled = True
        return self.small

    def _finalize_clicked(self):
        try:
            small = self.finalize(force=True)
            accuracy = training.evaluate(small, self.x_val, self.y_val)["accuracy"]
            self._tell(f"{self._size()} Its validation accuracy is {_percent(accuracy)}.")
        except Exception as error:  # shown in place; a callback's exception would vanish in a log
            self.error, self.message.value = error, _error(error)

    def _settings(self) -> tuple[schedules.Schedule, int]:
        """The schedule and the rank that the controls say, or a `ValueError`."""
        values = {name: control.value for name, control in self.controls.items()}
        epochs = values["epochs"]
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received: {epochs}. Choose more epochs.")
        shape = {name: values[name] for name in ("begin", "end", "floor")}
        schedule_table(values["schedule"], **shape, steps=1)  # its messages say what to move
        schedule = schedules.get(values["schedule"], epochs * self.steps, **shape)
        for rule in self._rules:
            factors.check_rank(rule, values["rank"])
        return schedule, values["rank"]

    def _check(self, change=None) -> bool:
        """Say in the message what is wrong with the settings; whether they can be had."""
        try:
            schedule, rank = self._settings()
        except Exception as error:  # any error of a callback is shown in place
            self.message.value = _error(error)
            self.start_button.disabled = True
            return False
        large = [rule.name for rule in self._rules if rank >= rule.break_even_rank]
        remark = ""
        if schedule.floor > 0.0:
            remark = (
                f"With floor {schedule.floor:g} a part of W stays, so the net can't be finalized. "
                "Lower the floor to 0, or use 'Finalize anyway' at the end."
            )
        elif large:
            remark = f"At rank {rank} the pair is no smaller than W in {', '.join(large)}. Lower the rank."
        self.message.value = _note(remark)
        self.start_button.disabled = self.running
        return True

    def html_title(self, values) -> str:
        return f"Live: {figures.method_label(values['method'])}, rank {values['rank']}"

    def _run(self, values):
        """The thread: everything that goes wrong in it ends in the message."""
        try:
            self._train(values)
            stopped = self._stop.is_set()
            over = max(float(layer.decay) for layer in cl.clora_layers(self.model)) == 0.0
            if over:
                self.small = cl.finalize(self.model)
            self._go("stopped" if stopped else "finished", self._closing(stopped, over))
        except Exception as error:
            self.error = error
            self._go("failed", "The training ended with an error.")
            remedy = "The kernel goes on: change the settings or the data, and press Start again."
            self.message.value = _error(error, remedy)

    def _train(self, values):
        schedule, rank = self._settings()
        with warnings.catch_warnings():  # `_check` has said so already
            warnings.simplefilter("ignore", cl.BreakEvenWarning)
            model = cl.compress(
                self.original, rank, method=values["method"], schedule=schedule,
                targets=self.targets, seed=self.seed,
            )  # fmt: skip
        self.model = model
        model.compile(
            optimizer=keras.optimizers.Adam(self.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # Few enough for a stop at once. XLA would take seconds before the first step.
            steps_per_execution=max(1, min(20, self.steps // 10)),
            jit_compile=keras.backend.backend() == "jax",
        )
        self._dense = training.evaluate(self.original, self.x_val, self.y_val)
        views = training.PathViews(self.x_val, self.y_val, ("trained", "compressed"))
        views.set_model(model)
        self._record(0, {**views.measure(), "decay": 1.0, "noise": 0.0})
        callbacks = [cl.DecayCallback(), views, _Watch(self)]
        model.fit(
            self.x, self.y, batch_size=self.batch_size, epochs=values["epochs"], verbose=0,
            callbacks=callbacks,
        )  # fmt: skip
        self._redraw()

    def _record(self, step, logs):
        row = {"epoch": step / self.steps, "step": step, **logs}
        self.history = pd.concat([self.history, pd.DataFrame([row])], ignore_index=True)
        if time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._redraw()

    def _redraw(self):
        fig = self._picture.draw(self.history, self._dense)
        self.image.value, self.text.value = _png(fig), _alt(fig.alt_text)
        self._drawn = self._told = time.monotonic()

    def _show_progress(self, step):
        if time.monotonic() - self._told > REDRAW_SECONDS:
            total = self.steps * self.controls["epochs"].value
            self.progress.value = step / total
            self._tell(f"Epoch {step / self.steps:.1f} of {self.controls['epochs'].value}.")
            self._told = time.monotonic()

    def _tell(self, text):
        self.status.value = html.escape(text)

    def _go(self, state, text):
        """Enter a state: which controls can be used, and what is said."""
        self.state, running = state, state == "running"
        for control in self.controls.values():
            control.disabled = running
        self.start_button.disabled, self.stop_button.disabled = running, not running
        self.force_button.disabled = running or self.model is None or self.small is not None
        self.progress.bar_style = {"failed": "danger", "finished": "success"}.get(state, "")
        if state == "finished":
            self.progress.value = 1.0
        self._told = time.monotonic()
        self._tell(text)

    def _closing(self, stopped, over) -> str:
        text = ("Stopped: " if stopped else "Finished: ") + _training_text(self.history)
        if over:
            return f"{text} {self._size()}"
        return f"{text} W is not gone: .model can be used as it is, 'Finalize anyway' keeps BA alone."

    def _size(self) -> str:
        ratio = cl.ratio(self.original, self.small, "model")
        return f".small is a stock Keras net with {_percent(ratio)} of the original's parameters."


def _training_data(data) -> tuple[np.ndarray, ...]:
    """x_train, y_train, x_val, y_val of a `Dataset` or of a tuple of the four."""
    names = ("x_train", "y_train", "x_val", "y_val")
    parts = [getattr(data, name) for name in names] if hasattr(data, "x_train") else list(data)
    if len(parts) != 4 or len(parts[0]) != len(parts[1]) or len(parts[2]) != len(parts[3]):
        raise ValueError(
            f"`data` must be a Dataset, or ({', '.join(names)}) of matching lengths. "
            f"Received: {type(data).__name__} with parts of length {[len(part) for part in parts]}."
        )
    return tuple(parts)


def live_training(
    model: keras.Model,
    data,
    epochs: int = 10,
    batch_size: int = 30,
    learning_rate: float = 1e-3,
    rank: int | None = None,
    method: str = "noise_bias",
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> LiveTraining:
    """Widget 5: start and stop a training of one's own, with both views of the net as it goes.

    Args:
        model: a trained classifier with logits, not compressed; it is not changed.
        data: a `clora_lab.lab.data.datasets.Dataset`, or (x_train, y_train, x_val, y_val).
        epochs, rank, method: what the controls begin with.
        batch_size, learning_rate: of Adam, constant.
        targets: layers to compress; None for all but the output layer.
        seed: of the pairs' start values and the noise.

    Raises:
        ValueError: if the model can't be compressed, or the data do not fit together.

    Example:
        >>> live = live_training(dense_net, data, epochs=5)  # doctest: +SKIP
        >>> live.start()  # doctest: +SKIP
        >>> live.stop(); live.wait(); live.finalize(force=True)  # doctest: +SKIP
    """
    return LiveTraining(model, data, epochs, batch_size, learning_rate, rank, method, targets, seed)


def live_training_static(
    history: pd.DataFrame | None = None, method: str = "noise_bias", rank: int = 16
) -> Figure:
    """The picture of `live_training` at its end, from recorded epochs: one run, its first seed.

    Args:
        history: recorded epochs, as of `ResultsStore.read_history`; None for those of the toy study.
        method, rank: which run.

    Raises:
        MissingResults: if that run is not in `history`.
    """
    if history is None:
        history = course.results("toy")[1]
    rows = history[(history["variant"] == "slides") & (history["method"] == method)]
    rows = rows[rows["rank"] == rank].sort_values(["seed", "epoch"])
    if rows.empty:
        raise figures.MissingResults(
            f"`history` must have a run with method={method!r}, rank={rank}. {figures.REMEDY}"
        )
    rows = rows[rows["config"] == rows["config"].iloc[0]]
    name = figures.dataset_label(rows["dataset"].iloc[0])
    title = f"{figures.method_label(method)}, rank {rank}, on {name}, recorded"
    picture = TrainingPicture(int(rows["epoch"].max()), title)
    start = rows.iloc[0]  # before the training d·W + BA is the original, since B = 0
    return picture.draw(rows, {"accuracy": start["val_accuracy"], "loss": start["val_loss"]})
