"""The frame around every widget: controls, a message, a picture and a text; and what all of them share."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import html
import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import ipywidgets
import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clora_lab import _checks
from clora_lab.lab.figures import style

DPI = 100
# Titles at a given height: finding a free one takes a third of the time of a picture.
STYLE = {**style.STYLE, "axes.titley": 1.0}
PICTURE_WIDTH = "660px"
LABEL_WIDTH, CONTROL_WIDTH = "9.5em", "28em"
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
        defaults: the first value of each.
        message, image, text: the widgets that are written.
    """

    def __init__(self, view: View, controls: Mapping[str, ipywidgets.Widget], height: float):
        self.view, self.height, self.controls = view, height, dict(controls)
        self.message, self.text = ipywidgets.HTML(), ipywidgets.HTML()
        self.text.add_class("clora-text")
        self.image = make_image()
        self.defaults = {name: control.value for name, control in self.controls.items()}
        self.reset_button = ipywidgets.Button(
            description="Reset", tooltip="Set every control back to where it began", icon="undo"
        )
        self.reset_button.on_click(lambda button: self.reset())
        for control in self.controls.values():
            control.observe(self.update, names="value")
        self._quiet = False
        row = make_row([*self.controls.values(), self.reset_button])
        super().__init__([ipywidgets.HTML(CSS), row, self.message, self.image, self.text])
        self.update()

    @property
    def settings(self) -> dict:
        """The value of every control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def reset(self) -> None:
        """Set every control back to its first value."""
        self.set(**self.defaults)
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
            self.message.value = html_error(error, "The picture shows the last settings that work.")
            self.image.add_class("clora-stale")
            return
        self.message.value = html_note(reading.remark)
        self.image.value = picture
        self.text.value = html_alt(alt) + reading.text
        self.image.remove_class("clora-stale")

    def _draw(self) -> tuple[bytes, str, Reading]:
        fig = empty_figure(self.height)
        with mpl.rc_context(STYLE):
            reading = self.view(fig, **self.settings)
            return png(fig), fig.alt_text, reading


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


# --- pictures -----------------------------------------------------------------------------------


def empty_figure(height: float) -> style.LabFigure:
    """A figure of the lab's width whose margins are the view's: constrained layout would draw twice."""
    fig = style.new_figure(height)
    fig.set_layout_engine("none")
    fig.set_dpi(DPI)
    return fig


def still_figure(view: View, height: float, /, **settings) -> Figure:
    """The picture of a view as a figure of its own."""
    fig = empty_figure(height)
    with mpl.rc_context(STYLE):
        view(fig, **settings)
    return fig


def png(fig: Figure) -> bytes:
    """The figure's bytes, drawn once; `savefig` would draw it twice."""
    file = BytesIO()
    fig.canvas.print_png(file)
    return file.getvalue()


def write_title(fig: Figure, title: str) -> None:
    """The bold line above the picture."""
    fig.suptitle(title, x=0.012, y=0.985, ha="left", va="top", fontsize=11, weight="bold")


def draw_legend(fig: Figure, axes: Sequence[Axes], ncols: int) -> None:
    """One legend of all the axes' lines below the picture."""
    style.shared_legend(fig, axes, ncols, loc="lower center", handlelength=2.6)


# --- parts of a widget --------------------------------------------------------------------------


def make_image() -> ipywidgets.Image:
    """An empty picture: of a fixed width it would be cut on a small screen, of a relative one be huge."""
    layout = ipywidgets.Layout(width="100%", max_width=PICTURE_WIDTH, margin="0", object_fit="contain")
    return ipywidgets.Image(format="png", layout=layout)


def make_row(children: Sequence[ipywidgets.Widget]) -> ipywidgets.Box:
    """Widgets side by side, on several lines where the screen is small."""
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


def fraction(description: str, value: float, **options) -> ipywidgets.FloatSlider:
    """A slider from 0 to 1, in hundredths."""
    options = {"min": 0.0, "max": 1.0, "step": 0.01, "readout_format": ".2f", **options}
    return make_control(ipywidgets.FloatSlider, description, value, **options)


def dropdown(description: str, value, options) -> ipywidgets.Dropdown:
    """A menu of values, or of (label, value)."""
    return make_control(ipywidgets.Dropdown, description, value, options=options)


# --- words --------------------------------------------------------------------------------------


def html_error(error: Exception, remedy: str = "") -> str:
    """An error as a message in red; its type is named unless it is a `ValueError`."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    text = html.escape(f"{kind}{error} {remedy}".strip()).replace("\n", "<br>")
    return f'<div class="clora-message clora-error" role="alert"><b>⚠</b> {text}</div>'


def html_note(remark: str) -> str:
    """A remark as a message in blue; "" stays ""."""
    if not remark:
        return ""
    text = html.escape(remark)
    return f'<div class="clora-message clora-note" role="status"><b>Note:</b> {text}</div>'


def html_alt(text: str) -> str:
    """A picture's description for screen readers: an Image widget has none, and breaks with a tooltip."""
    return f'<span class="clora-alt">Picture: {html.escape(text)}</span>'


def html_table(frame: pd.DataFrame) -> str:
    """A frame of texts as an HTML table."""
    return frame.to_html(index=False, border=0, na_rep="–")


def finite(argument: str, value, what: str = "a number") -> float:
    """The number, if it is finite; a `ValueError` that names the argument otherwise."""
    if not math.isfinite(_checks.real(argument, value)):
        raise ValueError(f"`{argument}` must be {what}. Received: {value!r}. Enter a finite number.")
    return float(value)
