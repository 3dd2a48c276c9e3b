"""Made-up rows in the schema of a study, for tests of what reads them: numbers, not results."""

from pathlib import Path

import pandas as pd

from clora_lab import studies


def blank(study):
    """A row with all columns of a study: 0 where there is a number, "" where there is text."""
    home = studies.get(study)
    return {name: 0 if home.types.get(name) in (int, float) else "" for name in home.columns}


def write(folder, study, rows, history=()):
    """Add rows to the collected tables of a study."""
    for name, new in ((study, rows), (f"{study}_history", list(history))):
        path = Path(folder) / f"{name}.csv"
        old = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame()
        if len(new):
            pd.concat([old, pd.DataFrame(new)], ignore_index=True).to_csv(path, index=False)
