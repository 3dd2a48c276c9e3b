"""One grammar of marks: lines, bars, points, differences, heat, matrices, table.

Each mark is a function of a tidy frame that returns a `Figure` with title, labels, legend and an alt text
computed from the data; and a twin `draw_<mark>(ax, frame, ...)` that draws into axes which exist, for widgets
and for figures of several panels, and returns what it drew in words, for their alt text.

| mark | a frame with | shows |
|---|---|---|
| `lines` | a column a curve, over the index | what goes on over steps, epochs, ranks |
| `bars` | a column a bar, a row a group | amounts, side by side or stacked |
| `points` | a row a net: method, mean, sd, a column across | accuracy against size or work, ± 1 sd |
| `differences` | a row a comparison: difference, low, high | intervals around 0 |
| `heat` | a row a cell: two settings and a value | a value over two settings |
| `matrices` | name -> array | entries as colours |
| `table` | head and lines of cells | typeset text |
"""

from clora_lab.lab.figures.marks.columns import bars, draw_bars
from clora_lab.lab.figures.marks.curves import draw_curve, draw_lines, draw_mark, lines, number
from clora_lab.lab.figures.marks.images import draw_heat, draw_image, heat, matrices
from clora_lab.lab.figures.marks.intervals import VERDICTS, differences, draw_differences
from clora_lab.lab.figures.marks.nets import draw_points, limits, points, rank_axis, untrained
from clora_lab.lab.figures.marks.typeset import draw_table, spoken, table

__all__ = [
    "VERDICTS", "bars", "differences", "draw_bars", "draw_curve", "draw_differences", "draw_heat",
    "draw_image", "draw_lines", "draw_mark", "draw_points", "draw_table", "heat", "limits", "lines",
    "matrices", "number", "points", "rank_axis", "spoken", "table", "untrained",
]  # fmt: skip
