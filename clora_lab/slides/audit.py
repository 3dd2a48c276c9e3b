"""The audit: every figure that the slides derive from others, computed again.

A printed number agrees if what is computed lies within half a unit of its last digit. Two kinds of rows:

- "arithmetic": the slide's own numbers, or the shapes of its networks, by one rule everywhere. A disagreement
  is a slip, a misprint, or a rule that the slide does not name.
- "convention": the same words counted another way, for the reader who takes them literally. A disagreement
  says how much hangs on the way of counting.

Sources: what is `printed`, and `shapes`; `recompute` has the arithmetic. Nothing is measured, no network is
built, and none of the rules that it checks is used.
"""

from __future__ import annotations

import math
import textwrap

import pandas as pd

from clora_lab import _checks
from clora_lab.slides import recompute

COLUMNS = (
    "slide", "quantity", "printed", "recomputed", "difference", "tolerance", "agrees", "how", "unit", "kind",
)  # fmt: skip
WIDTH = 80  # of a terminal
FIXED = "\N{NO-BREAK SPACE}"  # within a pair of numbers, until the lines are broken
KINDS = {
    "arithmetic": "By the slide's own numbers and shapes, one rule everywhere.",
    "convention": "The same words counted another way: how much hangs on the way of counting.",
}


def audit() -> pd.DataFrame:
    """Every derived figure of the slides beside its recomputation.

    Returns:
        A data frame, a row a figure in the order of the slides: `slide` (number), `quantity` (what it is),
        `printed` and `recomputed` (in `unit`), `difference` (printed - recomputed), `tolerance` (half a unit
        of the last printed digit), `agrees`, `how` (a sentence: how it was recomputed), `unit`, `kind`
        ("arithmetic" or "convention": see the module).

    Raises:
        ValueError: a claim in `data/published/claims.csv` for which there is no recomputation.

    Example:
        >>> table = audit()
        >>> table.loc[table["quantity"] == "BERT-Tiny: height of the compressed bar", "recomputed"].item()
        80.79
    """
    return _with_groups()[list(COLUMNS)]


def _with_groups() -> pd.DataFrame:
    """The audit, and `topic`, `item` and `reason`: what rows with one reason are called, and each of them."""
    frame = pd.DataFrame(recompute.rows())
    frame["difference"] = frame["printed"] - frame["recomputed"]
    # The margin is for the last bit of the subtraction, far below any printed digit.
    frame["agrees"] = frame["difference"].abs() <= frame["tolerance"] + 1e-9
    return frame.sort_values("slide", kind="stable").reset_index(drop=True)


def disagreements(kind: str | None = None) -> pd.DataFrame:
    """The rows of `audit` that do not agree.

    Args:
        kind: only "arithmetic" or only "convention"; by default both.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> bars = disagreements("arithmetic").query("slide == 24")
        >>> bars[["printed", "recomputed"]].to_numpy().tolist()
        [[81.12, 80.79]]
    """
    frame = audit()
    if kind is not None:
        frame = frame[frame["kind"] == _checks.one_of("kind", kind, KINDS)]
    return frame[~frame["agrees"]].reset_index(drop=True)


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `audit` for a page: numbers as printed, the recomputed ones with a digit more.

    Example:
        >>> as_text(disagreements("arithmetic")).iloc[-1][["printed", "recomputed"]].tolist()
        ['81.12 %', '80.790 %']
    """
    rows = []
    for row in frame.itertuples():
        unit = f" {row.unit}" if row.unit else ""
        printed, recomputed, difference = _numbers(row)
        values = {"printed": printed + unit, "recomputed": recomputed + unit, "difference": difference}
        rows.append({"slide": row.slide, "quantity": row.quantity, **values, "how": row.how})
    return pd.DataFrame(rows, columns=["slide", "quantity", "printed", "recomputed", "difference", "how"])


def _numbers(row) -> tuple[str, str, str]:
    """Printed, recomputed and their difference as text, without the unit."""
    digits = math.ceil(-math.log10(2 * row.tolerance))
    more = 0 if row.unit in recompute.COUNTS else digits + 1
    texts = f"{row.printed:.{digits}f}", f"{row.recomputed:.{more}f}", f"{row.difference:+.{more}f}"
    return tuple(text.replace("-", "−") for text in texts)


def report(kind: str = "both", everything: bool = False) -> str:
    """The audit for a terminal of 80 columns: what shares a reason stands together.

    Args:
        kind: only "arithmetic" or only "convention", or "both".
        everything: also what agrees.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> print(report("arithmetic").partition("24\\n")[2])
          BERT-Tiny: height of the compressed bar: 81.12 → 80.790 %
            slide 21, rank 16, scheduled noise & bias; no cell of that table has the
            bar's value
    """
    table, lines = _with_groups(), []
    for each in KINDS if _checks.one_of("kind", kind, (*KINDS, "both")) == "both" else (kind,):
        rows = table[table["kind"] == each]
        wrong = (~rows["agrees"]).sum()
        lines += [f"{each.capitalize()}: {wrong} of {len(rows)} figures do not agree", KINDS[each]]
        lines.append("Printed → recomputed:")
        shown, slide = rows if everything else rows[~rows["agrees"]], 0
        for (number, topic, reason, unit), group in shown.groupby(
            ["slide", "topic", "reason", "unit"], sort=False
        ):
            if number != slide:
                slide = number
                lines += ["", f"Slide {slide}"]
            pairs = []
            for row in group.itertuples():
                printed, recomputed, _ = _numbers(row)
                sign = " =" if everything and row.agrees else ""
                pair = f"{printed} → {recomputed}{sign}".replace(" ", FIXED)
                pairs.append(f"{row.item}: {pair}" if row.item else pair)
            text = f"{topic} ({unit}): {'; '.join(pairs)}"
            if len(pairs) == 1:
                text = f"{topic}: {pairs[0]} {unit}"
            lines += [_wrapped(text, "  "), _wrapped(reason, "    ")]
        lines.append("")
    return "\n".join(lines).rstrip()


def _wrapped(text: str, indent: str) -> str:
    place = {"initial_indent": indent, "subsequent_indent": indent, "break_on_hyphens": False}
    return textwrap.fill(text, WIDTH, **place).replace(FIXED, " ")
