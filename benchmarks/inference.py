"""The finalized toy net against the dense one in ONNX Runtime, one thread, beside the FLOP ratio.

Keras' own predict() spends tens of milliseconds a call around a net of this size: it can't show the
difference.

    python benchmarks/inference.py [--batches 1 1024] [--ranks 16 32 64] [--rounds 15]
"""

import argparse

from clora_lab.lab import processes  # noqa: E402

processes.limit_threads()

import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import pandas as pd  # noqa: E402

import clora_lab as cl  # noqa: E402
from clora_lab.lab import printing  # noqa: E402
from clora_lab.lab.nets import mlp  # noqa: E402


def session(model, folder):
    """An ONNX Runtime session of a Keras net."""
    path = Path(folder) / f"{len(list(Path(folder).iterdir()))}.onnx"
    model(np.zeros((1, 784), "float32"))
    model.export(path, format="onnx", verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(run, x, calls):
    name = run.get_inputs()[0].name
    begin = time.perf_counter()
    for _ in range(calls):
        run.run(None, {name: x})
    return 1e3 * (time.perf_counter() - begin) / calls


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 1024])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    dense = mlp.toy_mlp()
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs, flops, stored = {"dense": session(dense, folder)}, {"dense": 1.0}, {"dense": 1.0}
        for rank in arguments.ranks:
            wrapped = cl.compress(dense, rank=rank, method="bias", schedule=cl.LinearDecay(1))
            small = cl.finalize(wrapped, force=True)
            total = cl.report(dense, small).iloc[-1]
            runs[f"rank {rank}"] = session(small, folder)
            flops[f"rank {rank}"], stored[f"rank {rank}"] = total["flops_ratio"], total["ratio"]
        for batch in arguments.batches:
            x = rng.random((batch, 784), dtype="float32")
            calls = max(5, 2000 // batch)
            times = [
                {name: milliseconds(run, x, calls) for name, run in runs.items()}
                for _ in range(arguments.rounds + 1)
            ]
            frame = pd.DataFrame(times[1:])
            speedup = (1 / frame.div(frame["dense"], axis=0)).median()
            rows += [
                {
                    "batch": batch,
                    "net": name,
                    "ms a call": statistics.median(frame[name]),
                    "times as fast": speedup[name],
                    "times fewer FLOPs": 1 / flops[name],
                    "times fewer parameters": 1 / stored[name],
                }
                for name in runs
            ]
    printing.show(pd.DataFrame(rows), "Toy net in ONNX Runtime, one thread")


if __name__ == "__main__":
    main()
