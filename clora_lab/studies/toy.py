"""The toy project (slides 9 to 16): four methods, three ranks and all baselines on a small MLP."""

from __future__ import annotations

import functools

from clora_lab import methods
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.published import Published
from clora_lab.lab.settings import AS_CODED, AS_WRITTEN, LR_SCHEDULES, Field
from clora_lab.lab.study import Hooks, Study

RANKS = {"fashion_mnist": (16, 32, 64), "digits": (4, 8, 16)}
# How the baselines start, as their runs' names say it.
FIXED = {
    "svd": {"init": ("svd", "activations")},
    "svd_finetune": {"init": ("svd", "activations")},
    "scratch": {"init": ("scratch",)},
    "lora": {"init": ("lora_inputs", "lora"), "schedule": ("constant",)},
}
SOFTMAX = "softmax"  # a net, and the recipe that trains it
STEPS_PER_EXECUTION = 50  # so many steps run between two calls of Python; the decay moves with them
COSINE = {"lr_schedule": "cosine", "dense_lr_schedule": "cosine"}
# The best recipe found on the validation images at each rank; data/results/toy_search.csv has the search.
BEST = {"method": "noise_bias", "init": "svd", "begin": 0.0, "end": 0.5}


def cosine(wanted, cells):
    """Noise & bias and all baselines with a cosine learning rate, the dense net too."""
    left_out = [name for name in methods.names("slides") if name != BEST["method"]]
    kept = [name for name in wanted if name not in left_out]
    return [{**COSINE, **cell, "method": name} for name in kept for cell in cells]


def noise_to_end(wanted, cells, how=AS_WRITTEN):
    """Noise & bias at the smallest rank with noise until the end of learning (slide 15)."""
    smallest = min(cells, key=lambda cell: cell["rank"])
    run = {**how, **smallest, "method": BEST["method"], "noise_gate": "until_end"}
    return [run] if _asked(wanted) else []


def as_coded(wanted, cells, how=AS_CODED):
    """The slides' four methods as their authors' code has them: what is left is linear."""
    kept = [name for name in wanted if name in methods.names("slides")]
    return [{**how, **cell, "method": name} for name in kept for cell in cells]


def softmax(wanted, cells):
    """A plain softmax regression, beside which a net of linear layers stands."""
    whole = set(wanted) >= set(methods.names("slides"))
    return [{"method": methods.ORIGINAL, "model": SOFTMAX}] if whole else []


def recipe(wanted, cells):
    """The best recipe found."""
    return [{**BEST, **COSINE, **cell} for cell in cells] if _asked(wanted) else []


def _asked(wanted):
    return BEST["method"] in wanted


class SideBySide(Hooks):
    """What the slides' projects share: beside a study's tables, their recipe as coded and as written."""

    def report(self, study, rows, splits=()):
        from clora_lab.studies import as_coded

        super().report(study, rows, splits)
        as_coded.report(rows, study)

    def markdown(self, study, rows, split="test"):
        from clora_lab.studies import as_coded

        both = as_coded.markdown(rows, study), super().markdown(study, rows, split)
        return "\n\n".join(filter(None, both))


class Toy(SideBySide):
    """What only the toy project does."""

    wide = True
    splits = ("validation", "test")
    alone = methods.names("slides")[:1]
    resumable = False  # a run takes a minute

    def usual(self, chosen):
        return {"variant": ("as_written", "as_coded", SOFTMAX)}

    def original(self, run):
        rate = run["dense_lr_schedule"]
        shared = run.only(
            "study", "dataset", "model", "seed", "epochs", "batch_size", "dense_lr_schedule", "fraction"
        )
        variant = SOFTMAX if run["model"] == SOFTMAX else "slides" if rate == "constant" else "cosine"
        return {**shared, "variant": variant, "lr_schedule": rate}

    def things(self, what):
        return "images"

    def data(self, run):
        return of_images(run)

    def net(self, run, data, fresh=False):
        return nets.find(run["model"])(data.train[0].shape[1], data.classes, seed=run["seed"])

    def compression(self, run, net):
        return {"rank": run["rank"], "targets": nets.targets(run["model"])}

    def compiled(self, run, steps):
        return {"steps_per_execution": STEPS_PER_EXECUTION}


@functools.lru_cache(maxsize=2)
def _loaded(dataset, **settings):
    return datasets.load(dataset, **settings)


def of_images(run, settings=(), **how):
    """The `Data` of a run on images.

    Args:
        run: with `dataset`, `batch_size` and `fraction`, the share of the training images.
        settings: fields of the run that the data set's loader takes.
        **how: further fields of `Data`.
    """
    from clora_lab.lab.bench import Data

    found = _loaded(run["dataset"], **run.only(*settings))
    count = max(run["batch_size"], round(len(found.x_train) * run["fraction"]))
    return Data(
        train=(found.x_train[:count], found.y_train[:count]),
        validation=(found.x_val, found.y_val),
        test=(found.x_test, found.y_test),
        classes=len(found.classes),
        **how,
    )


STUDY = Study(
    name="toy",
    title="Toy study",
    net=("toy_mlp", SOFTMAX),
    data=tuple(RANKS),
    defaults={"epochs": 30, "batch_size": 30, "learning_rate": 1e-3},
    axes={
        "dense_lr_schedule": Field("constant", "lr_schedule of the dense net", choices=LR_SCHEDULES),
    },
    variants={
        "as_written": AS_WRITTEN,
        "as_coded": as_coded,
        SOFTMAX: softmax,
        "as_written_to_end": noise_to_end,
        "as_coded_to_end": functools.partial(noise_to_end, how=AS_CODED),
        # With the A of the first recorded runs, drawn by the inputs.
        "slides": {},
        "noise_to_end": functools.partial(noise_to_end, how={}),
        "cosine": cosine,
        "recipe": recipe,
    },
    ranks=RANKS,
    fixed=FIXED,
    apart=("dataset", "fraction", "variant"),
    ratios={"ratio_percent": "slides", "ratio_model_percent": "model"},
    published=(
        Published(
            "toy",
            {"rank": "rank"},
            {"dataset": ("fashion_mnist",), "variant": ("as_written", "as_coded", "slides")},
            "validation",
            30,
        ),
    ),
    small={
        "fashion_mnist": {"epochs": 12, "fraction": 0.1},
        "digits": {"epochs": 20, "fraction": 1.0},
    },
    jobs=0,
    examples=(
        "",
        "dataset=digits --jobs 2",
        "variant=slides,cosine rank=16 seed=0,1,2,3,4",
        "method=wds,noise_bias noise_gate=0.15,0.5",
    ),
    hooks=Toy(),
)
