"""Names and their order, once: methods, recipes, data sets, models. Any module may ask: it imports none."""

from __future__ import annotations

METHODS = ("wds", "bias", "noise", "noise_bias")  # the slides' four, in the slides' order
BASELINES = ("svd", "svd_finetune", "scratch")  # ours, which the slides lack
METHOD_LABELS = {  # in the order of every table, legend and menu
    "dense": "Dense",
    "wds": "Only WDS",
    "bias": "Bias (C_weights)",
    "noise": "Scheduled noise",
    "noise_bias": "Scheduled noise & bias",
    "svd": "SVD, no training",
    "svd_finetune": "SVD then fine-tuning",
    "scratch": "Low-rank from scratch",
}
# Not a compression: beside the others to tell what trains from what remains.
REFERENCES = {"lora": "LoRA fine-tuning (all of W stays)"}
VARIANTS = ("slides", "noise_to_end", "cosine", "recipe")
DATASET_LABELS = {
    "fashion_mnist": "Fashion-MNIST",
    "digits": "scikit-learn digits",
    "digits32": "scikit-learn digits, 32x32",
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 (JPEG)",
    "imdb": "IMDB",
}
MODEL_LABELS = {
    "toy_mlp": "Toy MLP",
    "vgg16": "VGG16",
    "small_vgg": "Small VGG",
    "bert_tiny": "BERT-Tiny",
    "bert_small": "BERT-Small",
    "minilm": "MiniLM",
}


def dataset_label(name: str) -> str:
    """The printed name of a dataset; a name without an entry is printed as it is.

    Example:
        >>> dataset_label("fashion_mnist"), dataset_label("my photos")
        ('Fashion-MNIST', 'my photos')
    """
    return DATASET_LABELS.get(str(name).lower().replace("-", "_"), str(name))


def method_label(method: str) -> str:
    """The slides' name of a method; a method without one is printed as it is.

    Example:
        >>> method_label("wds")
        'Only WDS'
    """
    return {**METHOD_LABELS, **REFERENCES}.get(method, method)


def model_label(model: str) -> str:
    """The printed name of a model; a model without one is printed as it is.

    Example:
        >>> model_label("bert_tiny")
        'BERT-Tiny'
    """
    return MODEL_LABELS.get(model, model)
