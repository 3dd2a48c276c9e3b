"""VGG16 at 32 x 32 on this machine: C-LoRA's training step, the finished nets' latency, and peak memory.

    python benchmarks/vgg16.py [step] [latency] [memory] [--rounds 7] [--steps 6]

step: training step at batch 30, plain TensorFlow, interleaved, as ratios to the dense net of the same round
    (in processor time too, which other work on the machine disturbs less).
latency: the finished nets in ONNX Runtime, beside the FLOP ratio, one thread and all.
memory: peak resident memory of training the wrapped net at batch 30, and whether W is kept once.
Weights are random, data too: neither time nor memory depends on them.
"""

import argparse
import os

THREADS = os.cpu_count()
PARTS = ("step", "latency", "memory")
BATCH, RANK = 30, 16
LIMIT_GB = 3.0  # of the memory that training may take

import json  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import clora_lab as cl  # noqa: E402
from clora_lab.lab import bench, printing  # noqa: E402
from clora_lab.lab.nets import vgg  # noqa: E402
from clora_lab.studies import vgg16  # noqa: E402


def wrapped(dense, method, factorization):
    """The dense net with pairs of rank 16 beside W; the noise stays on, as d is a little below 1."""
    run = vgg16.STUDY.run(
        dataset="cifar10", method=method, rank=RANK, dense_rank=RANK, factorization=factorization
    )
    slow = cl.LinearDecay(total_steps=10**9, begin=0.0, end=1.0)
    return cl.compress(dense, method=method, schedule=slow, **vgg16.STUDY.hooks.compression(run, dense))


def finished(dense, factorization):
    """The net that is left; loralib's kernels are multiplied out, as they are where this package is not."""
    return cl.finalize(wrapped(dense, "bias", factorization), force=True)


def compiled(net):
    net.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    return net


def batches(steps):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, BATCH * steps).astype("int32")


def step(arguments):
    """Milliseconds a training step; the rounds of all nets are interleaved."""
    dense = vgg.vgg16()
    nets = {"dense": (dense, [])}
    for method in ("wds", "noise_bias"):
        for factorization in ("pair", "loralib"):
            callback = cl.DecayCallback(initial_step=1000)
            nets[f"{method}, {factorization}"] = (wrapped(dense, method, factorization), [callback])
    for net, _ in nets.values():
        compiled(net)
    x, y = batches(arguments.steps)
    wall, work = [], []
    for _ in range(arguments.rounds + 1):
        wall.append({})
        work.append({})
        for name, (net, callbacks) in nets.items():
            begin, used = time.perf_counter(), time.process_time()
            net.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False, callbacks=callbacks)
            wall[-1][name] = 1e3 * (time.perf_counter() - begin) / arguments.steps
            work[-1][name] = 1e3 * (time.process_time() - used) / arguments.steps
            if callbacks:  # the next round starts where this one did
                callbacks[0].initial_step = 1000
    wall, work = pd.DataFrame(wall[1:]), pd.DataFrame(work[1:])  # the first round compiles
    ratio, share = wall.div(wall["dense"], axis=0), work.div(work["dense"], axis=0)
    table = pd.DataFrame(
        {
            "net": wall.columns,
            "ms a step": [statistics.median(wall[name]) for name in wall],
            "ratio to dense": [statistics.median(ratio[name]) for name in wall],
            "min": [ratio[name].min() for name in wall],
            "max": [ratio[name].max() for name in wall],
            "ratio of processor time": [statistics.median(share[name]) for name in wall],
        }
    )
    title = f"VGG16, ranks {RANK}/{RANK}, training step at batch {BATCH}, {keras.backend.backend()}"
    printing.show(table, f"{title}, {arguments.rounds} rounds", _made_on())


def latency(arguments):
    """Milliseconds a call in ONNX Runtime, and the time of each node at batch 1 for the two that matter."""
    import onnxruntime

    dense = vgg.vgg16()
    nets = {"dense": dense}
    for factorization in vgg16.FACTORIZATIONS:
        nets[factorization] = finished(dense, factorization)
    totals = {name: cl.report(dense, net).iloc[-1] for name, net in nets.items()}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, net in nets.items():
            files[name] = Path(folder, f"{name}.onnx")
            net(np.zeros((1, 32, 32, 3), "float32"))
            net.export(files[name], format="onnx", verbose=False)
        for threads in dict.fromkeys((1, THREADS)):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            runs = {
                name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                for name, path in files.items()
            }
            rows = []
            for batch in (1, 64):
                frame = _interleaved(runs, batch, arguments.rounds)
                faster = (1 / frame.div(frame["dense"], axis=0)).median()
                for name in runs:
                    fewer = 1 / totals[name]["flops_ratio"]
                    rows.append(
                        {
                            "batch": batch,
                            "net": name,
                            "ms a call": statistics.median(frame[name]),
                            "times as fast": faster[name],
                            "FLOPs, times fewer": fewer,
                            "share of it": faster[name] / fewer,
                            "parameters, times fewer": 1 / totals[name]["ratio"],
                        }
                    )
            noun = "thread" if threads == 1 else "threads"
            title = f"VGG16 in ONNX Runtime, ranks {RANK}/{RANK}, {threads} {noun}, {arguments.rounds} rounds"
            printing.show(pd.DataFrame(rows), title, _made_on())
        for batch in (1, 64):
            _where_the_time_goes({name: files[name] for name in ("dense", "pair")}, batch, folder)


def _interleaved(runs, batch, rounds):
    x = np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype("float32")
    calls = max(1, 24 // batch)
    times = []
    for _ in range(rounds + 1):
        row = {}
        for name, run in runs.items():
            feed = {run.get_inputs()[0].name: x}
            begin = time.perf_counter()
            for _ in range(calls):
                run.run(None, feed)
            row[name] = 1e3 * (time.perf_counter() - begin) / calls
        times.append(row)
    return pd.DataFrame(times[1:])


def _where_the_time_goes(files, batch, folder):
    """Milliseconds by kind of node and block, one thread, from ONNX Runtime's own profile."""
    import onnxruntime

    x = np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype("float32")
    found = {}
    for name, path in files.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, name))
        run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(12):
            run.run(None, {run.get_inputs()[0].name: x})
        events = json.loads(Path(run.end_profiling()).read_text())
        nodes = [event for event in events if event["name"].endswith("_kernel_time")]
        groups = pd.DataFrame(
            [(_group(event["name"], event["args"]["op_name"]), event["dur"] / 1e3) for event in nodes],
            columns=["part", "ms"],
        )
        found[name] = groups.groupby("part")["ms"].sum() / 12
    table = pd.DataFrame(found).fillna(0.0)
    table["times as fast"] = (table["dense"] / table["pair"]).where(table["pair"] > 0)
    title = f"Where the time goes: ms a call, batch {batch}, one thread"
    printing.show(table.reset_index(), title)


def _group(name, operator):
    """Block or dense layer of a node: the exported names hold those of the layers."""
    found = re.search(r"block\d|dense_\d", name)
    return found[0] if found else operator


def memory(arguments):
    """Peak resident memory of training the wrapped net in a process of its own; W must be there once."""
    rows = []
    for factorization in ("pair", "loralib"):
        command = [sys.executable, __file__, "--train", factorization, "--steps", str(arguments.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    table = pd.DataFrame(rows)
    printing.show(
        table, f"Memory of training VGG16, noise_bias, batch {BATCH}, limit {LIMIT_GB:g} GB", _made_on()
    )
    kept_once = bool((table["weights MB"] <= table["W, pairs and biases MB"] * 1.001).all())
    print(f"W is kept once: {kept_once}; under {LIMIT_GB:g} GB: {bool((table['peak GB'] < LIMIT_GB).all())}")


def train(factorization, steps):
    """What `memory` runs in a process of its own; prints its findings as JSON."""
    dense = vgg.vgg16()
    net = wrapped(dense, "noise_bias", factorization)
    original = dense.count_params()
    del dense
    compiled(net)
    x, y = batches(steps)
    net.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[cl.DecayCallback(initial_step=1000)])
    megabytes = 4 / 1e6
    variables = sum(int(np.prod(weight.shape)) for weight in net.variables)
    pairs = sum(layer.remaining_parameters for layer in cl.clora_layers(net))
    # Beside them a layer holds d, the mean and the spread of W for each unit, and a seed.
    small = sum(
        int(np.prod(weight.shape))
        for layer in cl.clora_layers(net)
        for weight in layer.variables
        if weight.name in ("decay", "noise_mean", "noise_std", "seed_generator_state")
    )
    found = {
        "factorization": factorization,
        "peak GB": _peak() / 1e9,
        "weights MB": variables * megabytes,
        "W, pairs and biases MB": (original + pairs + small) * megabytes,
        "optimiser MB": sum(int(np.prod(v.shape)) for v in net.optimizer.variables) * megabytes,
    }
    print(json.dumps(found))


def _peak():
    """Peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: there ru_maxrss also counts what the parent held when it started this one
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    # ru_maxrss: bytes on macOS, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _made_on():
    made = bench.provenance()
    versions = f"{made['backend']} {made['backend_version']}, Keras {made['keras_version']}"
    return f"{versions}, {made['processor']}, {made['date']}; load {os.getloadavg()[0]:.1f} at the end"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {PARTS}; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--train", choices=("pair", "loralib"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"`parts` must be of {PARTS}. Received: {sorted(unknown)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if arguments.train:
            train(arguments.train, arguments.steps)
            return
        for part in PARTS:
            if not arguments.parts or part in arguments.parts:
                {"step": step, "latency": latency, "memory": memory}[part](arguments)


if __name__ == "__main__":
    main()
