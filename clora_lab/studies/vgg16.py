"""VGG16 on CIFAR-10 (slides 18, 19): all 13 convolutions and the two hidden dense layers are compressed.

`rank` is the convolutions' rank, `dense_rank` the dense layers', as in the slides' table; the output layer
stays.
"""

from __future__ import annotations

from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.settings import Field
from clora_lab.lab.study import Hooks, Published, Study
from clora_lab.studies.toy import FIXED

NET = {"vgg16": "VGG16", "small_vgg": "a small VGG (stands in for VGG16)"}
FACTORIZATIONS = ("loralib", "pair", "pair_equal")
# (convolutions' rank, dense layers' rank) of slide 19.
RANKS = ((16, 16), (16, 32), (16, 64), (32, 16), (32, 32), (32, 64))


class VGG16(Hooks):
    """What only the VGG16 study does."""

    def usual(self, chosen):
        # What stands in for CIFAR-10 takes a small net and few images: seconds in place of hours.
        small = {"model": "small_vgg", "part": "tiny", "variant": "short", "rank": 4}
        return small if chosen.get("dataset") == "digits32" else {}

    def original(self, run):
        shared = run.only("study", "dataset", "seed", "variant", "part", "model", "start", "dense_epochs")
        shared |= run.only(
            "batch_size", "dense_learning_rate", "lr_schedule", "augment", "precision", "fraction"
        )
        return {**shared, "epochs": run["dense_epochs"], "learning_rate": run["dense_learning_rate"]}

    def title(self, what):
        return f"{nets.title(what['model'], what['start'])} on {datasets.title(what['dataset'])}"

    def things(self, what):
        return "images"


STUDY = Study(
    name="vgg16",
    title="VGG16 study",
    net=NET,
    data=("cifar10_jpeg", "cifar10", "digits32"),
    defaults={"epochs": 20, "batch_size": 30, "learning_rate": 1e-4, "begin": 0.10, "end": 0.90},
    axes={
        "dense_rank": Field(0, "rank of the dense layers' pairs", low=1, original=0),
        "factorization": Field(
            "loralib",
            "of the convolutions: loralib (the slides'), pair, or pair_equal (the pair at the rank at "
            "which it has as many parameters as loralib's factors)",
            choices=FACTORIZATIONS,
            original="",
        ),
        "part": Field(
            "slides", "of the images: 5,000 / 1,000, all, or a few", choices=("slides", "full", "tiny")
        ),
        "start": Field("random", "where the dense net starts", choices=tuple(nets.entry("vgg16").starts)),
        "dense_epochs": Field(20, "length of the dense net's training, in epochs", low=1),
        "dense_learning_rate": Field(1e-4, "of Adam at the start, for the dense net", low=1e-12, high=1e3),
        "augment": Field(False, "whether images are mirrored and shifted"),
        "precision": Field("float32", "mixed_bfloat16 is faster", choices=("float32", "mixed_bfloat16")),
    },
    # "short" makes up for few steps by larger ones, for a processor without a GPU; "modern" is the usual for
    # CIFAR-10: augmentation, and a cosine rate.
    variants={
        "slides": {},
        "short": {"epochs": 4, "dense_epochs": 10, "learning_rate": 3e-4},
        "modern": {
            "augment": True,
            "lr_schedule": "cosine",
            "learning_rate": 5e-4,
            "dense_learning_rate": 3e-4,
        },
    },
    ranks={"": RANKS},
    fixed=FIXED,
    cells=("rank", "dense_rank"),
    apart=("dataset", "model", "start", "train_size", "variant", "factorization"),
    ratios={
        "ratio_percent": "slides",
        "ratio_head_percent": "slides_head",
        "ratio_model_percent": "model",
    },
    published=(
        Published(
            "vgg16",
            {"conv_rank": "rank", "dense_rank": "dense_rank"},
            {"dataset": ("cifar10", "cifar10_jpeg"), "model": ("vgg16",), "factorization": ("loralib",)},
        ),
    ),
    small=dict.fromkeys(
        ("cifar10_jpeg", "cifar10", "digits32"),
        # A batch of 10, so that 300 images give a few hundred steps.
        {
            "model": "small_vgg",
            "part": "tiny",
            "variant": "short",
            "epochs": 8,
            "dense_epochs": 8,
            "batch_size": 10,
        },
    ),
    hooks=VGG16(),
)


def __getattr__(name):
    """The runs of the first edition, until `clora_lab.lab.bench` carries them out."""
    import importlib

    return getattr(importlib.import_module("clora_lab.studies.vgg16_runs"), name)
