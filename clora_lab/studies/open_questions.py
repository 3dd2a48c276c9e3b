"""The slides' open questions (slide 25): how should the pair start, and which noise helps?

One setting at a time is moved away from the slides' recipe, noise & bias at the smallest rank, and paired by
seed with it; on the small digits also a whole grid of three settings, the surface. The runs are those of the
toy project, recorded as "future".
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

from clora_lab.studies import toy

METHOD, PLAIN = "noise_bias", "bias"  # the slides' recipe, and the same without noise
# In the order of every table: the start that the others are compared with, the slides', two more beside the
# whole of W, and two that take their part out of it.
INITS = ("lora_inputs", "lora", "orthogonal", "svd_copy", "svd", "activations")
# Setting -> the values beside the slides' own.
MOVED: dict[str, tuple] = {
    "noise_spread": (0.0, 0.25, 0.5, 1.5, 2.0),
    "noise_mean": (0.0,),
    "noise_per": ("matrix",),
    "noise_kind": ("empirical",),
    "noise_gate": (0.0, 0.15, 0.5, 0.7),
    "schedule": ("cosine", "exponential", "polynomial", "step"),
    "end": (0.25, 0.5, 1.0),
}
SURFACE = {
    "noise_spread": (0.0, 0.5, 1.0, 1.5, 2.0),
    "noise_gate": (0.0, 0.15, 0.3, 0.5, 0.7),
    "end": (0.5, 0.85),
}


def inits(wanted, cells):
    """All starts, with and without noise, and the two SVDs without any W."""
    points = [{"method": method, "init": init} for init in INITS for method in (METHOD, PLAIN)]
    points += [
        {"method": method, "init": init}
        for init in toy.FIXED["svd"]["init"]
        for method in ("svd", "svd_finetune")
    ]
    return _runs(points, cells)


def noise(wanted, cells):
    """Every value of `MOVED`, the slides' own, and no noise."""
    points: list[dict] = [{}, {"method": PLAIN}]
    points += [{setting: value} for setting, values in MOVED.items() for value in values]
    return _runs(points, cells)


def surface(wanted, cells):
    """Every combination of `SURFACE`."""
    return _runs(combinations(), cells)


def combinations() -> list[dict]:
    """Every combination of `SURFACE`, as settings."""
    return [dict(zip(SURFACE, chosen, strict=True)) for chosen in itertools.product(*SURFACE.values())]


def _runs(points, cells):
    # Recorded under the slides' recipe: what is moved is in the settings.
    return [{"method": METHOD, **point, **cell, "variant": "slides"} for point in points for cell in cells]


class OpenQuestions(toy.Toy):
    """What only this study does: five seeds, and a third of the toy project's epochs."""

    def usual(self, chosen):
        return {"variant": ("inits", "noise"), "epochs": 10, "seed": range(5)}

    def report(self, study, rows, splits=("test",)):
        from clora_lab.lab import printing
        from clora_lab.lab.data import registry
        from clora_lab.lab.frames import MissingResults
        from clora_lab.studies import answers

        for split in splits:
            note = f"{split} accuracy in percent; difference: points from the slides' recipe, paired by seed"
            for dataset, own in rows.groupby("dataset", sort=False):
                said = []
                for question in study.variants:
                    with contextlib.suppress(MissingResults):  # a question that was not recorded
                        table = answers.answers(own, question, split)
                        title = f"{registry.title(dataset)}: {question}"
                        printing.show(answers.compact(table), title, note)
                        said = answers.in_words(table)
                print(*said)

    def markdown(self, study, rows, split="test"):
        from clora_lab.studies import answers

        first = next(name for name in study.data if (rows["dataset"] == name).any())
        return answers.markdown(rows[rows["dataset"] == first], split)


STUDY = dataclasses.replace(
    toy.STUDY,
    name="future",
    title="Open questions",
    base="toy",
    variants={"inits": inits, "noise": noise, "surface": surface},
    ranks={dataset: ranks[:1] for dataset, ranks in toy.RANKS.items()},
    together=("dataset", "rank", "epochs"),
    apart=("dataset", "rank", "epochs"),
    published=(),
    recipes="question",
    examples=("dataset=digits seed=0,1", "question=inits", "dataset=digits question=surface"),
    hooks=OpenQuestions(),
)
