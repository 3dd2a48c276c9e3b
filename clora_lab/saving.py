"""Recipes: keeping models that Keras cannot reload by itself.

A `.keras` file holds the config of a KerasHub model, and the classes in it make plain sub-layers again:
what `compress` or `finalize` put inside of the blocks is not in it. A recipe is that config, the layers
that differ from what it rebuilds, the files of the tokeniser, and the weights; loading rebuilds the model,
replaces the layers and loads the weights. The optimiser is not kept: to train on, compile the model and
pass ``DecayCallback(initial_step=...)``.

    folder/recipe.json         the config, and the layers by their paths
    folder/model.weights.h5    all weights
    folder/assets/N/           files of the preprocessor's layers (vocabularies)
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import keras

import clora_lab
from clora_lab import graph

FILE, WEIGHTS, ASSETS, FORMAT = "recipe.json", "model.weights.h5", "assets", 1


def save_recipe(model: keras.Model, folder: str | os.PathLike) -> Path:
    """Keep a model of `compress` or `finalize` in a folder, to be loaded by `load_recipe`.

    Args:
        model: a compressed or finalized model, of KerasHub or not; it is not changed.
        folder: where to write; made if need be. A recipe that is there is replaced as a whole.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds something else, or the model was not made by `compress` or `finalize`.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> import clora_lab as cl
        >>> x = keras.Input((5, 8))
        >>> y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
        >>> model = keras.Model(x, keras.layers.Dense(3, name="out")(y))
        >>> model_c = cl.compress(model, 2, schedule=cl.LinearDecay(10), targets="attention/query")
        >>> loaded = cl.load_recipe(cl.save_recipe(cl.finalize(model_c, force=True), tempfile.mkdtemp()))
        >>> [layer.name for layer in loaded.get_layer("attention")._query_dense.layers]
        ['query_down', 'query']
    """
    folder = Path(folder)
    if folder.exists() and not (folder / FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(
            f"`folder` {folder} exists and holds no recipe, so it is left alone. "
            "Give a new or an empty folder."
        )
    config = keras.saving.serialize_keras_object(model)
    recipe = {
        "format": FORMAT,
        "clora_lab": clora_lab.__version__,
        "keras": keras.__version__,
        "needs": ["keras_hub"] if graph.is_hub_model(model) else [],
        "config": config,
        # A copy, since KerasHub writes the layers that it makes into the config.
        "layers": _difference(keras.saving.deserialize_keras_object(copy.deepcopy(config)), model),
        "frozen": [path for path, layer in graph.walk(model) if not layer.trainable],
        "parameters": model.count_params(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".recipe-", dir=folder.parent))
    try:
        (staging / FILE).write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        model.save_weights(staging / WEIGHTS)
        for number, layer in enumerate(_with_assets(model)):
            (staging / ASSETS / str(number)).mkdir(parents=True)
            layer.save_assets(str(staging / ASSETS / str(number)))
        staging.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def load_recipe(folder: str | os.PathLike) -> keras.Model:
    """Load what `save_recipe` has written, in this or another process.

    Args:
        folder: of the recipe.

    Returns:
        A new, uncompiled model; a Task of KerasHub with its preprocessor.

    Raises:
        ValueError: if the folder holds no recipe, or one that is damaged or of a later format.
        ImportError: if the model is one of KerasHub, and KerasHub is not installed.
    """
    folder = Path(folder)
    try:
        recipe = json.loads((folder / FILE).read_text(encoding="utf-8"))
        newer = recipe["format"] > FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`folder` {folder} holds no readable {FILE} ({error}). Give a folder written by save_recipe()."
        ) from error
    if newer:
        raise ValueError(
            f"The recipe in {folder} has the format {recipe['format']}; this clora_lab reads up to "
            f"{FORMAT}. Load it with clora_lab {recipe['clora_lab']} or later."
        )
    for module in recipe["needs"]:
        importlib.import_module(module)
    base = keras.saving.deserialize_keras_object(recipe["config"])
    for number, layer in enumerate(_with_assets(base)):
        layer.load_assets(str(folder / ASSETS / str(number)))
    known = dict(graph.walk(base))
    if absent := sorted(set(recipe["layers"]) - set(known)):
        raise ValueError(
            f"The recipe in {folder} replaces the layers {absent}, which Keras {keras.__version__} does "
            f"not make from its config. It was written with Keras {recipe['keras']}: load it with that "
            "version."
        )

    def replace(layer, path):
        if path not in recipe["layers"]:
            return None
        return [keras.saving.deserialize_keras_object(config) for config in recipe["layers"][path]]

    model, _ = graph.rewrite(base, replace)
    frozen = set(recipe["frozen"])
    for path, layer in graph.walk(model):
        if layer.trainable != (
            path not in frozen
        ):  # said again, it would reach the frozen W inside of a wrapper
            layer.trainable = not layer.trainable
    if model.count_params() != recipe["parameters"]:
        raise ValueError(
            f"The recipe in {folder} gives a model of {model.count_params():,} parameters in place of "
            f"{recipe['parameters']:,}. It was written with Keras {recipe['keras']}: load it with that "
            "version."
        )
    try:
        model.load_weights(folder / WEIGHTS)
    except OSError as error:
        raise ValueError(
            f"The weights in {folder / WEIGHTS} cannot be read ({error}). Save the model again."
        ) from error
    return model


def _difference(base, model) -> dict[str, list[dict]]:
    """path -> configs of the layers that stand in `model` for one of the model that Keras rebuilds."""
    now, rebuilt, found = dict(graph.walk(model)), dict(graph.walk(base)), {}
    together, made = graph.parts(model), graph.parts(base)
    for path, layer in rebuilt.items():
        if path not in now:
            raise ValueError(
                f"Model {model.name!r} has no layer {path!r}, which its config would make: it was not made "
                "by compress() or finalize()."
            )
        layers = together.get(path, [now[path]])
        if path in made and len(made[path]) == len(layers):
            layers = layers[-1:]  # a chain that the config makes by itself
        if len(layers) > 1 or type(now[path]) is not type(layer):
            found[path] = layers
    return {path: [_serialize(layer) for layer in layers] for path, layers in found.items()}


def _serialize(layer) -> dict:
    config = keras.saving.serialize_keras_object(layer)
    # With it Keras would build the layer at once, outside of the names of the layers around it.
    config.pop("build_config", None)
    return config


def _with_assets(model) -> list:
    """The layers of a Task's preprocessor that keep files, in a fixed order."""
    preprocessor = getattr(model, "preprocessor", None) if graph.is_hub_model(model) else None
    if preprocessor is None:
        return []
    return [layer for layer in preprocessor._flatten_layers() if hasattr(layer, "save_assets")]
