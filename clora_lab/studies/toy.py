"""The toy project (slides 9 to 16): four methods, three ranks and all baselines on a small MLP."""

from __future__ import annotations

from clora_lab import methods
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.settings import LR_SCHEDULES, Field
from clora_lab.lab.study import Hooks, Published, Study

RANKS = {"fashion_mnist": (16, 32, 64), "digits": (4, 8, 16)}
# How the baselines start, as their runs' names say it.
FIXED = {
    "svd": {"init": ("svd", "activations")},
    "svd_finetune": {"init": ("svd", "activations")},
    "scratch": {"init": ("scratch",)},
    "lora": {"init": ("lora",), "schedule": ("constant",)},
}
COSINE = {"lr_schedule": "cosine", "dense_lr_schedule": "cosine"}
# The best recipe found on the validation images at each rank; data/results/toy_search.csv has the search.
BEST = {"method": "noise_bias", "init": "svd", "begin": 0.0, "end": 0.5}


def cosine(wanted, cells):
    """Noise & bias and all baselines with a cosine learning rate, the dense net too."""
    left_out = [name for name in methods.names("slides") if name != BEST["method"]]
    kept = [name for name in wanted if name not in left_out]
    return [{**COSINE, **cell, "method": name} for name in kept for cell in cells]


def noise_to_end(wanted, cells):
    """Noise & bias at the smallest rank with noise until the end of learning (slide 15)."""
    smallest = min(cells, key=lambda cell: cell["rank"])
    return [{**smallest, "method": BEST["method"], "noise_gate": "until_end"}]


def recipe(wanted, cells):
    """The best recipe found."""
    return [{**BEST, **COSINE, **cell} for cell in cells]


class Toy(Hooks):
    """What only the toy project does."""

    def original(self, run):
        rate = run["dense_lr_schedule"]
        shared = run.only(
            "study", "dataset", "model", "seed", "epochs", "batch_size", "dense_lr_schedule", "fraction"
        )
        return {**shared, "variant": "slides" if rate == "constant" else "cosine", "lr_schedule": rate}

    def title(self, what):
        return f"{NET[what['model']]} on {datasets.title(what['dataset'])}"

    def things(self, what):
        return "images"


NET = {"toy_mlp": "Toy MLP"}
STUDY = Study(
    name="toy",
    title="Toy study",
    net=NET,
    data=tuple(RANKS),
    defaults={"epochs": 30, "batch_size": 30, "learning_rate": 1e-3},
    axes={
        "dense_lr_schedule": Field("constant", "lr_schedule of the dense net", choices=LR_SCHEDULES),
    },
    variants={"slides": {}, "noise_to_end": noise_to_end, "cosine": cosine, "recipe": recipe},
    ranks=RANKS,
    fixed=FIXED,
    apart=("dataset", "fraction", "variant"),
    ratios={"ratio_percent": "slides", "ratio_model_percent": "model"},
    published=(
        Published(
            "toy", {"rank": "rank"}, {"dataset": ("fashion_mnist",), "variant": ("slides",)}, "validation"
        ),
    ),
    small={
        "fashion_mnist": {"epochs": 12, "fraction": 0.1},
        "digits": {"epochs": 20},
    },
    hooks=Toy(),
)
