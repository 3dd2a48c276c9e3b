"""VGG16 on CIFAR-10 (slides 18, 19): all 13 convolutions and the two hidden dense layers are compressed.

`rank` is the convolutions' rank, `dense_rank` the dense layers', as in the slides' table; the output layer
stays.
"""

from __future__ import annotations

from clora_lab import methods
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.published import Published
from clora_lab.lab.settings import AS_WRITTEN, Field
from clora_lab.lab.study import Study
from clora_lab.studies.toy import FIXED, SideBySide, as_coded, of_images

SPATIAL = "spatial"
EQUAL = "pair_equal"  # the pair with as many parameters as loralib's factors
FACTORIZATIONS = (SPATIAL, "loralib", "pair", EQUAL)
# (convolutions' rank, dense layers' rank) of slide 19.
RANKS = ((16, 16), (16, 32), (16, 64), (32, 16), (32, 32), (32, 64))


class VGG16(SideBySide):
    """What only the VGG16 study does."""

    alone = methods.names("slides")[:1]
    evaluation = {"batch": 500}

    def usual(self, chosen):
        # What stands in for CIFAR-10 takes a small net and few images: seconds in place of hours.
        small = {"model": "small_vgg", "part": "tiny", "variant": "short", "rank": 4, "batch_size": 10}
        return {"factorization": SPATIAL} | (small if chosen.get("dataset") == "digits32" else {})

    def original(self, run):
        shared = run.only("study", "dataset", "seed", "variant", "part", "model", "start", "dense_epochs")
        shared |= run.only("batch_size", "dense_learning_rate", "lr_schedule", "augment", "precision")
        shared |= run.only("fraction")
        return {**shared, "epochs": run["dense_epochs"], "learning_rate": run["dense_learning_rate"]}

    def things(self, what):
        return "images"

    def data(self, run):
        from clora_lab.lab.data import images

        draw = _augmented if run["augment"] else None
        return of_images(run, ("part",), prepare=images.standardise, draw=draw)

    def net(self, run, data, fresh=False):
        start = {"start": run["start"]} if len(nets.entry(run["model"]).starts) > 1 else {}
        return nets.find(run["model"])(classes=data.classes, seed=run["seed"], **start)

    def compression(self, run, net):
        convolutions, factorization = ranks(run, net)
        dense = dict.fromkeys(nets.targets(run["model"], "dense"), run["dense_rank"])
        return {
            "rank": {**convolutions, **dense},
            "targets": nets.targets(run["model"]),
            "factorization": factorization,
        }

    def compiled(self, run, steps):
        import keras

        # On the CPU, XLA makes TensorFlow's convolutions several times slower.
        return {"jit_compile": False if keras.backend.backend() == "tensorflow" else "auto"}


def _augmented(x, rng):
    from clora_lab.lab.data import images

    return images.standardise(images.augment(x, rng))


def ranks(run, net) -> tuple[dict[str, int], str]:
    """The rank of each convolution of a net, and the library's name of the factorization.

    A rank is never above what the kernel's matrix has. "pair_equal" asks for as many parameters as loralib's
    factors have at `rank`: k k rank (Cin + Cout) numbers buy the pair the rank
    k k rank (Cin + Cout) / (k k Cin + Cout), rounded down.

    Example:
        >>> run = STUDY.run(
        ...     dataset="cifar10", method="wds", rank=4, dense_rank=4, factorization="pair_equal"
        ... )
        >>> ranks(run, nets.find("small_vgg")())
        ({'block1_conv1': 15, 'block2_conv1': 9, 'block3_conv1': 9, 'block3_conv2': 7}, 'pair')
    """
    import keras

    from clora_lab import graph, rules

    equal = run["factorization"] == EQUAL
    factorization = "pair" if equal else run["factorization"]
    found = {}
    for _, layer in graph.walk(net):
        if isinstance(layer, keras.layers.Conv2D):
            rule = rules.rule(layer, factorization)
            rank = run["rank"]
            if equal:
                rank = rules.rule(layer, "loralib").parameters(rank) // rule.parameters(1)
            found[layer.name] = max(1, min(rank, rule.max_rank))
    return found, factorization


STUDY = Study(
    name="vgg16",
    title="VGG16 study",
    net=("vgg16", "small_vgg"),
    data=("cifar10_jpeg", "cifar10", "digits32"),
    defaults={"epochs": 20, "batch_size": 30, "learning_rate": 1e-4, "begin": 0.10, "end": 0.90},
    axes={
        "dense_rank": Field(0, "rank of the dense layers' pairs", low=1, original=0),
        "factorization": Field(
            "loralib",
            "of the convolutions: spatial (the slides', and a grid's own), loralib (as many parameters, run "
            "as one kernel; what a run's name leaves out), pair, or pair_equal (the pair at the rank at "
            "which it has as many parameters)",
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
        "as_written": AS_WRITTEN,
        "as_coded": as_coded,
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
            {
                "dataset": ("cifar10", "cifar10_jpeg"),
                "model": ("vgg16",),
                "factorization": ("spatial", "loralib"),
            },
            epochs=20,
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
    examples=(
        "dataset=digits32",
        "variant=short rank=16 precision=mixed_bfloat16",
        "part=full seed=0,1,2 start=imagenet",
    ),
    hooks=VGG16(),
)
