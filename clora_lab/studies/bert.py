"""BERT on IMDB (slides 20 to 22): query, key, value and output of each encoder block are compressed.

That is the scope "attention", the slides'; "encoder" has the feed-forward halves too ("encoder_ff_wide" at
2.75 times attention's rank), "model" the pooler and the token embedding as well. The other embeddings, layer
norms and the head stay.
"""

from __future__ import annotations

from clora_lab import methods
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.settings import Field
from clora_lab.lab.study import Hooks, Published, Study
from clora_lab.studies.toy import FIXED

NET = {"bert_tiny": "BERT-Tiny", "bert_small": "BERT-Small", "minilm": "MiniLM"}
ENCODER = nets.targets("bert_tiny", "attention", "feed_forward")
SCOPES = {
    "attention": nets.targets("bert_tiny", "attention"),
    "encoder": ENCODER,
    "encoder_ff_wide": ENCODER,
    "model": nets.targets("bert_tiny"),
}
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


class BERT(Hooks):
    """What only the BERT study does."""

    def usual(self, chosen):
        model = chosen.get("model", next(iter(NET)))
        start = "random" if chosen.get("dataset") == "synthetic" else STARTS.get(model, "")
        return {"start": start, "sequence": SEQUENCES[model]} if model in STARTS else {}

    def original(self, run):
        # The recipe's name is no part of what the dense net is, but its row goes with the recipe's table.
        shared = run.only("study", "dataset", "seed", "variant", "model", "start", "sequence", "fraction")
        shared |= run.only("dense_epochs", "patience", "batch_size", "dense_learning_rate", "lr_schedule")
        return {**shared, "epochs": run["dense_epochs"], "learning_rate": run["dense_learning_rate"]}

    def title(self, what):
        return f"{nets.title(what['model'], what['start'])} on {datasets.title(what['dataset'])}"

    def things(self, what):
        return f"texts of {what['sequence']} tokens"


_SMALL = {
    "variant": "short", "rank": 16, "method": ("wds", "noise_bias", "svd", "svd_finetune", "lora")
}  # fmt: skip
STUDY = Study(
    name="bert",
    title="BERT study",
    net=NET,
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
        Published(model, {"rank": "rank"}, {"dataset": ("imdb",), "model": (model,), "scope": ("attention",)})
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
    hooks=BERT(),
)


def __getattr__(name):
    """The runs of the first edition, until `clora_lab.lab.bench` carries them out."""
    import importlib

    return getattr(importlib.import_module("clora_lab.studies.bert_runs"), name)
