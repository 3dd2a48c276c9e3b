"""Drawing the noise of one step: whole kernel or output space, and TensorFlow's generators under XLA.

python benchmarks/noise_draw.py [--rounds 15]
"""

import argparse

from clora_lab.lab import processes  # noqa: E402

processes.limit_threads()

import statistics  # noqa: E402
import time  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from clora_lab import noise  # noqa: E402
from clora_lab.lab import printing  # noqa: E402

REPEAT = 20  # draws in one compiled call, so that the call itself does not count


def compiled(function):
    """The mean of `function` over REPEAT draws as one compiled call."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(lambda key: jax.lax.fori_loop(0, REPEAT, lambda i, s: s + function(key + i), 0.0))
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def call(key):
        total = tf.constant(0.0)
        for i in tf.range(REPEAT):
            total += function(key + tf.cast(i, key.dtype))
        return total

    return call


def candidates(rows, inputs, units):
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.random((rows, inputs), dtype="float32"))
    mean = keras.ops.convert_to_tensor(np.zeros((1, units), "float32"))
    std = keras.ops.convert_to_tensor(np.full((1, units), 0.05, "float32"))
    total = keras.ops.sum

    def batch(key):
        # Another x in each draw, or XLA would factor the Gram matrix only once.
        return x * (1.0 + 1e-6 * keras.ops.cast(key[0], "float32"))

    def kernel(key, xla=True):
        seed = noise.DrawnSeed(key)
        drawn = noise.kernel_noise((inputs, units), 0.5, mean, std, seed, xla)
        return total(keras.ops.matmul(batch(key), drawn))

    def output(key):
        return total(noise.output_noise(batch(key), 0.5, mean[0], std[0], noise.DrawnSeed(key), True))

    return {
        "output space": output,
        "whole kernel": kernel,
        "whole kernel, Keras' own generator": lambda key: kernel(key, xla=False),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    key = keras.ops.convert_to_tensor(np.array([1, 2], "uint32"))
    for rows, inputs, units in ((30, 784, 256), (30, 256, 128), (256, 784, 256)):
        calls = {name: compiled(f) for name, f in candidates(rows, inputs, units).items()}
        times = []
        for _ in range(rounds + 1):
            row = {}
            for name, call in calls.items():
                begin = time.perf_counter()
                np.asarray(call(key))
                row[name] = 1e3 * (time.perf_counter() - begin) / REPEAT
            times.append(row)
        frame = pd.DataFrame(times[1:])
        ratio = frame.div(frame["output space"], axis=0)
        table = pd.DataFrame(
            {
                "draw": frame.columns,
                "ms": [statistics.median(frame[name]) for name in frame],
                "ratio to output space": [statistics.median(ratio[name]) for name in frame],
            }
        )
        printing.show(table, f"Noise of one step, x {rows} x {inputs}, W {inputs} x {units}, XLA")


if __name__ == "__main__":
    main()
