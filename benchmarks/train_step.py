"""Training step of the toy net: C-LoRA against the plain dense net of the same shape, in one run.

Rounds of all nets are interleaved, so that a slow moment of the machine hits all of them; the table shows the
median over rounds and the ratio to the dense net of the same round (median). Data are random numbers: a step
costs the same on them.

    python benchmarks/train_step.py [--batches 30 256] [--rounds 7] [--steps 400]
"""

import argparse

from clora_lab.lab import processes  # noqa: E402

processes.limit_threads()

import statistics  # noqa: E402
import time  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import clora_lab as cl  # noqa: E402
from clora_lab.lab import printing  # noqa: E402
from clora_lab.lab.nets import mlp  # noqa: E402
from clora_lab.studies import toy  # noqa: E402

OPEN = 0.56  # share of the slides' schedule during which the noise is on: (1 - 0.3) * (0.85 - 0.05)


def nets(rank=16):
    """Name -> (net, its callbacks). The noise stays on: d is a little below 1 all the time."""
    dense = mlp.toy_mlp()
    slow = cl.LinearDecay(total_steps=10**9, begin=0.0, end=1.0)
    found = {"dense": (dense, [])}
    for name, method, draw in (
        ("wds", "wds", "auto"),
        ("bias", "bias", "auto"),
        ("noise_bias", "noise_bias", "auto"),
        ("noise_bias, whole kernel drawn", "noise_bias", "kernel"),
    ):
        net = cl.compress(dense, rank=rank, method=method, schedule=slow, noise_draw=draw)
        found[name] = (net, [cl.DecayCallback(initial_step=1000)])
    return found


def measure(batch, rounds, steps):
    """Milliseconds a step: a data frame with a row a round and a column a net."""
    rng = np.random.default_rng(0)
    x = rng.random((batch * steps, 784), dtype="float32")
    y = rng.integers(0, 10, batch * steps).astype("int32")
    candidates = nets()
    for net, _ in candidates.values():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile("adam", loss, steps_per_execution=toy.STEPS_PER_EXECUTION)
    rows = []
    for _ in range(rounds + 1):
        row = {}
        for name, (net, callbacks) in candidates.items():
            begin = time.perf_counter()
            net.fit(x, y, batch_size=batch, epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
            row[name] = 1e3 * (time.perf_counter() - begin) / steps
            if callbacks:  # the next round starts where this one did
                callbacks[0].initial_step = 1000
        rows.append(row)
    return pd.DataFrame(rows[1:])  # the first round compiles


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[30, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    for batch in arguments.batches:
        frame = measure(batch, arguments.rounds, arguments.steps)
        ratio = frame.div(frame["dense"], axis=0)
        scheduled = OPEN * frame["noise_bias"] + (1 - OPEN) * frame["bias"]
        frame["noise_bias over the slides' schedule"] = scheduled
        ratio["noise_bias over the slides' schedule"] = scheduled / frame["dense"]
        table = pd.DataFrame(
            {
                "net": frame.columns,
                "ms a step": [statistics.median(frame[name]) for name in frame],
                "ratio to dense": [statistics.median(ratio[name]) for name in frame],
                "min": [ratio[name].min() for name in frame],
                "max": [ratio[name].max() for name in frame],
            }
        )
        backend = keras.backend.backend()
        rounds = arguments.rounds
        printing.show(table, f"Toy net, rank 16, batch {batch}, {backend}, one thread, {rounds} rounds")


if __name__ == "__main__":
    main()
