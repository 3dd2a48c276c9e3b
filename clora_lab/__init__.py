"""clora_lab: low-rank compression of Keras networks, as a library, a reproduction lab and a course.

The life of a compressed model:

    schedule = LinearDecay(total_steps)       step -> how much of W is left
    model_c  = compress(model, rank, ...)     a low-rank pair beside each target layer
    model_c.fit(..., [DecayCallback()])       W fades while the pair trains
    small    = finalize(model_c)              stock Keras layers, only the pairs
    report(model, small)                      what was saved, layer by layer
"""

import importlib
import sys

__version__ = "0.1.0"

_HOMES = {
    "accounting": ("CONVENTIONS", "ENCODER_CONVENTIONS", "ratio", "report"),
    "callbacks": ("DecayCallback",),
    "layers": ("CLoRA", "DecayNotMovingWarning"),
    "noise": ("NoiseLaw",),
    "methods": ("callbacks_for",),
    "rules": ("BreakEvenWarning",),
    "saving": ("load_recipe", "save_recipe"),
    "schedules": (
        "ConstantDecay",
        "CosineDecay",
        "ExponentialDecay",
        "LinearDecay",
        "NoiseGate",
        "PolynomialDecay",
        "Schedule",
        "StepDecay",
    ),
    "surgery": ("clora_layers", "compress", "finalize", "view"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name):
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    if name == "methods":  # so that `cl.methods.SVD()` needs no import of its own
        return importlib.import_module(f"{__name__}.methods")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])


# Importing the layers registers them with Keras, which loading a saved model needs. It takes seconds, which
# `python -m clora_lab --help` need not: Python sets argv[0] to "-m" while it looks for the module to run.
if sys.argv[:1] != ["-m"]:
    importlib.import_module("clora_lab.backend").load()
    importlib.import_module("clora_lab.layers")
