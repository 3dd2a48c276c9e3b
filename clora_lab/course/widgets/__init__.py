"""The widgets of the course: each a plain function with controls in front of it (ipywidgets 8).

| widget | plain functions | still picture | file |
|---|---|---|---|
| `schedule_explorer` | `schedule_table` | `schedule_explorer_static` | `schedule` |
| `noise_explorer` | `noise_parts`, `noise_table`, `noise_moments` | `noise_explorer_static` | `noise` |
| `rank_explorer` | `layer_facts`, `rank_table`, `rank_ratios` | `rank_explorer_static` | `rank` |
| `results_explorer` | `results_summary`, `results_curves` | `results_explorer_static` | `results` |
| `live_training` | `LiveTraining.history` | `live_training_static` | `live`, `live_picture` |
| `review_explorer` | `tokens` | `review_explorer_static` | `review` |
| `surface_explorer` | `studies.answers.surface` | `surface_explorer_static` | `surface` |

A plain function turns settings into a data frame, or raises a `ValueError` that says what to do. The
widget shows that message beside its last valid picture, which is a PNG made anew from the frame when a
control changes. So nothing but ipywidgets has to run in the browser: JupyterLab, Notebook and Colab do.

A widget's file is imported when its name is first used: no notebook waits for another one's libraries.
"""

from __future__ import annotations

import importlib

EXPORTS = {
    "schedule": "schedule_explorer schedule_explorer_static schedule_table",
    "noise": "noise_explorer noise_explorer_static noise_moments noise_parts noise_table",
    "rank": "layer_facts rank_explorer rank_explorer_static rank_ratios rank_table",
    "results": "results_curves results_explorer results_explorer_static results_summary results_tables",
    "live": "LiveTraining live_training",
    "live_picture": "live_training_static",
    "review": "EXAMPLES review_explorer review_explorer_static tokens",
    "surface": "surface_explorer surface_explorer_static",
}
_HOMES = {name: home for home, names in EXPORTS.items() for name in names.split()}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
