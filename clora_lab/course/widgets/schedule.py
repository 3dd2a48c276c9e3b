"""Widget 1: a decay schedule, the noise that goes with it, and the share of W that is left."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clora_lab import noise, schedules
from clora_lab.course.widgets.frame import (
    Explorer,
    Reading,
    draw_legend,
    dropdown,
    finite,
    fraction,
    still_figure,
    write_title,
)
from clora_lab.lab.figures import marks, style
from clora_lab.lab.figures.style import BLUE, FAINT, INK, RED
from clora_lab.lab.frames import per_cent

HEIGHT = 4.4
STEPS = 1000  # of the schedules that are drawn; a thousandth of the training each


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
        finite(argument, value)
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
    here = frame.iloc[(x - finite("at", at)).abs().argmin()]
    space = {"left": 0.115, "right": 0.975, "top": 0.92, "bottom": 0.265, "hspace": 0.14}
    ax, lower = fig.subplots(2, sharex=True, height_ratios=[1.7, 1], gridspec_kw=space)
    curves = {"decay d: what is left of W": frame["decay"], "noise level √(1 − d²), in σ": frame["noise"]}
    looks = [{"color": BLUE, "linewidth": 2.4}, {"color": RED, "linestyle": "--"}]
    marks.draw_lines(ax, pd.DataFrame(curves).set_index(x), looks)
    if gate <= 1:
        ax.axhline(gate, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label="gate of the noise")
    ax.set(ylim=(-0.03, 1.06), ylabel="d;  noise in units of σ")
    ax.yaxis.set_major_locator(MaxNLocator(5))
    bands = {"colors": [BLUE, RED], "alpha": 0.5, "linewidth": 0}
    bands["labels"] = ["W's share of the variance, d²", "the noise's share"]
    lower.stackplot(x, frame["w_share"], frame["noise_share"], **bands)
    lower.set(xlim=(0, 100), ylim=(0, 1), yticks=[0, 0.5, 1], xlabel="Training (% of all steps)")
    lower.set_ylabel("Variance (%)")
    style.percent_axis(lower.yaxis)
    for each, y in ((ax, [here["decay"], here["noise"]]), (lower, [])):
        each.axvline(here["percent"], color=INK, linewidth=1)
        each.plot([here["percent"]] * len(y), y, linestyle="", marker="o", color=INK)
        each.yaxis.set_label_coords(-0.085, 0.5)
    draw_legend(fig, [ax, lower], ncols=2)
    title = f"Decay schedule: {kind}, from {100 * begin:g}% to {100 * end:g}% of the steps"
    write_title(fig, title)
    text = (
        f"At {here['percent']:.1f}% of the steps d = {here['decay']:.3f}: W has {per_cent(here['w_share'])} "
        f"of its variance left, and the noise level is {here['noise']:.3f} σ"
    )
    fig.alt_text = f"{title}. {text}; d ends at {frame['decay'].iloc[-1]:.3g}."
    return Reading(f"<p>{text}. {_schedule_marks(frame)}</p>", _schedule_remark(kind, frame, gate))


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
        "begin": fraction("begin (of all steps)", 0.05),
        "end": fraction("end (of all steps)", 0.85),
        "floor": fraction("floor (last d)", 0.0),
        "gate": fraction("gate (smallest d)", 0.3, max=1.1),
        "at": fraction("read off at (%)", 50.0, max=100.0, step=0.5, readout_format=".1f"),
    }
    return Explorer(_schedule_view, controls, 4.4)


def schedule_explorer_static(**settings) -> Figure:
    """The picture of `schedule_explorer`, as a figure; settings as the widget's controls."""
    return still_figure(_schedule_view, 4.4, **settings)
