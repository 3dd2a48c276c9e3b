"""BERT on IMDB (slides 20 to 22): query, key, value and output of each encoder block are compressed.

That is the scope "attention", the slides'; "encoder" has the feed-forward halves too ("encoder_ff_wide" at
2.75 times attention's rank), "model" the pooler and the token embedding as well. The other embeddings, layer
norms and the head stay.
"""

from __future__ import annotations

import functools
import warnings

from clora_lab import methods
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.data.registry import DatasetMissing
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.nets import starts
from clora_lab.lab.published import Published
from clora_lab.lab.settings import AS_CODED, AS_WRITTEN, Field
from clora_lab.lab.study import Study
from clora_lab.studies.toy import FIXED, SideBySide, as_coded

WIDER, WIDER_RANK = "encoder_ff_wide", 2.75  # feed-forward pairs with so many times attention's rank
SCOPES = {  # what is compressed, as groups of a net's targets
    "attention": ("attention",),
    "encoder": ("attention", "feed_forward"),
    WIDER: ("attention", "feed_forward"),
    "model": ("attention", "feed_forward", "pooler", "embeddings"),
}
MODELS = ("bert_tiny", "bert_small", "minilm")
# Where a model's weights usually come from, and the length of its texts in tokens.
STARTS = {"bert_tiny": "pretrained_here", "bert_small": "preset", "minilm": "package"}
SEQUENCES = {"bert_tiny": 128, "bert_small": 256, "minilm": 128}
# "recipe" starts from the activations, at a rate below the one that did not help MiniLM's validation texts
# (data/results/bert_search.csv).
RECIPE = {
    "init": "activations", "lr_schedule": "cosine", "epochs": 3, "learning_rate": 2e-4,
    "dense_epochs": 3, "dense_learning_rate": 1e-4,
}  # fmt: skip


def slides_ratio(run):
    """The slides count BERT-Tiny's layer norms and BERT-Small's not."""
    return "slides_bert_norms" if run["model"] == "bert_tiny" else "slides_bert"


class BERT(SideBySide):
    """What only the BERT study does."""

    alone = methods.names("slides")[:1]
    calibration = 256
    evaluation = {"batch": 100, "traced": True}

    def resolve(self, dataset, among, download=True):
        found = super().resolve(dataset, among, download)
        if dataset == "auto":
            try:
                starts.find(MODELS[0], STARTS[MODELS[0]])
            except DatasetMissing as error:
                if download:
                    warnings.warn(f"'auto' takes {datasets.title(among[-1])}. {error}", stacklevel=2)
                return among[-1]
        return found

    def usual(self, chosen):
        model = chosen.get("model", MODELS[0])
        start = "random" if chosen.get("dataset") == "synthetic" else STARTS.get(model, "")
        return {"start": start, "sequence": SEQUENCES[model]} if model in STARTS else {}

    def original(self, run):
        shared = run.only("study", "dataset", "seed", "variant", "model", "start", "sequence", "fraction")
        shared |= run.only("dense_epochs", "patience", "batch_size", "dense_learning_rate", "lr_schedule")
        return {**shared, "epochs": run["dense_epochs"], "learning_rate": run["dense_learning_rate"]}

    def things(self, what):
        return f"texts of {what['sequence']} tokens"

    def shared(self, run):
        # The recipe's name is no part of what the dense net is.
        return run.replace(variant="slides")

    def data(self, run):
        from clora_lab.lab import bench
        from clora_lab.lab.data import tokens

        net, tokenizer = pretrained(run)
        reviews = _load(run["dataset"], run["fraction"])
        parts = {
            split: (
                tokens.tokenise(getattr(reviews, f"x_{split}"), tokenizer, run["sequence"]),
                getattr(reviews, f"y_{split}"),
            )
            for split in ("train", "val", "test")
        }
        more = {"net": net}
        if bench.taught(run):
            # What the dense net teaches on are pieces from everywhere in the texts, not their begin alone.
            ids, owners = tokens.pieces(reviews.x_train, tokenizer, run["sequence"])
            more["pieces"] = tokens.model_inputs(ids, tokenizer.pad_token_id), reviews.y_train[owners]
        return bench.Data(parts["train"], parts["val"], parts["test"], classes=2, more=more)

    def net(self, run, data, fresh=False):
        import keras

        if fresh:
            return pretrained(run, "random")[0]
        keras.utils.set_random_seed(run["seed"])
        return data.more["net"]

    def origin(self, run, method, original, data):
        if method.keeps_original:
            # From the pretrained net, as LoRA is meant; data's may be the trained one by now.
            return pretrained(run)[0]
        return super().origin(run, method, original, data)

    def free(self, run, method):
        return ("logits",) if method.keeps_original else ()  # the head is new

    def compression(self, run, net):
        wide = round(WIDER_RANK * run["rank"]) if run["scope"] == WIDER else run["rank"]
        feed_forward = nets.targets(run["model"], "feed_forward")
        return {
            "rank": {**dict.fromkeys(feed_forward, wide), "*": run["rank"]},
            "targets": nets.targets(run["model"], *SCOPES[run["scope"]]),
        }

    def compiled(self, run, steps):
        import keras

        # XLA compiles for minutes at these shapes (benchmarks/bert_step.py), as long as a whole run takes.
        return {"jit_compile": False if keras.backend.backend() == "tensorflow" else "auto"}

    def taught(self, run, model, teacher, data):
        from clora_lab import distill

        states = map(distill.bert_states, (model, teacher))
        whole = distill.Distilled(*states, run["distillation"])
        return whole, data.more["pieces"], {"loss_weights": whole.label_weight}


@functools.lru_cache(maxsize=1)
def _load(dataset, fraction):
    return datasets.load(dataset, fraction=fraction)


def pretrained(run, start: str = "") -> tuple:
    """The classifier of a run before any training here, without its preprocessor, and its tokeniser.

    Args:
        run: of the study.
        start: in the place of the run's own.
    """
    from clora_lab.lab.data import text

    start = start or run["start"]
    vocabulary = text.synthetic_vocabulary() if (run["dataset"], start) == ("synthetic", "random") else None
    net = nets.find(run["model"])(start, run["sequence"], seed=run["seed"], vocabulary=vocabulary)
    tokenizer = net.preprocessor.tokenizer
    net.preprocessor = None  # the study hands over token ids, made once
    return net, tokenizer


_SMALL = {
    "variant": "short", "rank": 16, "method": ("wds", "noise_bias", "svd", "svd_finetune", "lora")
}  # fmt: skip
STUDY = Study(
    name="bert",
    title="BERT study",
    net=MODELS,
    data=("imdb", "synthetic"),
    defaults={"epochs": 10, "batch_size": 32, "learning_rate": 5e-5},
    axes={
        "scope": Field(
            "attention",
            "what is compressed: attention (the slides'), encoder (the feed-forward halves too), "
            "encoder_ff_wide (those at 2.75 times attention's rank), model (encoder, pooler and token "
            "embedding)",
            choices=tuple(SCOPES),
            original="",
        ),
        "start": Field("pretrained_here", "preset, package, pretrained_here, random, or a folder"),
        "sequence": Field(128, "length of the texts, in tokens", low=1),
        "dense_epochs": Field(10, "epochs of the dense net at most", low=1),
        "patience": Field(2, "epochs that the dense net waits for a better one", low=1),
        "dense_learning_rate": Field(5e-5, "of Adam at the start, for the dense net", low=1e-12, high=1e3),
    },
    # "short" makes up for few steps by larger ones, for a processor without a GPU; "distilled" learns without
    # labels, from the dense net's states, on pieces from everywhere in the texts.
    variants={
        "as_written": AS_WRITTEN,
        "as_coded": functools.partial(as_coded, how={**AS_CODED, "decay_power": 2}),
        "slides": {},
        "short": {"learning_rate": 5e-4, "dense_learning_rate": 2e-4},
        "recipe": RECIPE,
        "distilled": {**RECIPE, "learning_rate": 5e-4, "distillation": 1.0},
    },
    # LoRA is here to compare what trains with what remains: of its net everything remains.
    methods=methods.names("slides", "baselines", "references"),
    fixed=FIXED,
    apart=("dataset", "model", "start", "sequence", "fraction", "variant", "scope"),
    ratios={
        "ratio_percent": slides_ratio,
        "ratio_encoder_percent": "encoder",
        "ratio_model_percent": "model",
    },
    published=tuple(
        Published(
            model,
            {"rank": "rank"},
            {"dataset": ("imdb",), "model": (model,), "scope": ("attention",)},
            epochs=10,
        )
        for model in ("bert_tiny", "bert_small")
    ),
    small={
        "synthetic": {
            **_SMALL,
            "sequence": 32,
            "batch_size": 16,
            "epochs": 8,
            "dense_epochs": 8,
            "patience": 8,
            "learning_rate": 1e-3,
            "dense_learning_rate": 1e-3,
        },
        "imdb": {
            **_SMALL,
            "start": "pretrained_here",
            "sequence": 64,
            "fraction": 0.05,
            "epochs": 4,
            "dense_epochs": 3,
        },
    },  # fmt: skip
    stages=("distillation",),
    examples=(
        "dataset=synthetic rank=16 epochs=2",
        "rank=16 seed=0,1,2",
        "model=minilm scope=encoder variant=distilled rank=63",
    ),
    hooks=BERT(),
)
