"""Widget 2: the scheduled noise. The densities of W, d W, the noise and their sum (slide 14)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter1d

from clora_lab import _checks, noise
from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    draw_legend,
    dropdown,
    finite,
    fraction,
    html_table,
    make_control,
    still_figure,
    write_title,
)
from clora_lab.lab.figures import marks
from clora_lab.lab.figures.laws import DENSITY_LOOKS

HEIGHT = 3.7
# More values than these show in no density, and would make it slow.
MAX_WEIGHTS = 50_000
NORMAL = "normal N(m, σ²)"
PARTS = tuple(DENSITY_LOOKS)


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
    mean = finite("m", mean)
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
    marks.draw_lines(ax, frame.set_index("value"), list(DENSITY_LOOKS.values()))
    # A narrow d·W would press the others to the ground; its peak may leave the picture.
    shown = frame[["W", "d·W + n"]].max().max()
    ax.set(ylim=(0, 1.9 * shown), xlim=(frame["value"].iloc[0], frame["value"].iloc[-1]))
    ax.set(xlabel="Value of a weight", ylabel="Density (1 / unit of weight)")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    draw_legend(fig, [ax], ncols=4)
    title = f"Noise fills what W loses: {source}, d = {d:.2f}"
    write_title(fig, title)
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
        "d": fraction("d (decay)", 0.5),
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
