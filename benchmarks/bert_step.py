r"""Training step of BERT-Tiny and MiniLM: XLA or not, fixed length or bucketed by length, wrapped or dense;
and the evaluation of a batch, operation by operation or traced.

Rounds of all candidates are interleaved, so that a slow moment of the machine hits all of them; a table shows
the median over rounds and the ratio to the first candidate of the same round (median). The lengths of the
texts are IMDB's own where it is at hand (CLORA_IMDB), else drawn from a fit to them; the words are random
numbers: a step costs the same on them. The backend is KERAS_BACKEND's.

    python benchmarks/bert_step.py [--models bert_tiny minilm] [--lengths 64 128 256] \
        [--rounds 3] [--steps 6] [--no-xla]
"""

import argparse

from clora_lab.lab import processes  # noqa: E402

processes.limit_threads()

import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import clora_lab as cl  # noqa: E402
from clora_lab.lab import printing, training  # noqa: E402
from clora_lab.lab.data import registry as datasets  # noqa: E402
from clora_lab.lab.data import tokens  # noqa: E402
from clora_lab.lab.data.registry import DatasetError  # noqa: E402
from clora_lab.lab.nets import bert, starts  # noqa: E402
from clora_lab.lab.nets import registry as nets  # noqa: E402

WORDS = 2_000  # size of the vocabulary: the embedding is a look-up, its size costs only the optimiser
BATCH = 32
BUCKET = 32  # lengths are rounded up to a multiple of this


def lengths_of_texts(count, rng):
    """Lengths in tokens, and where they are from."""
    try:
        texts = datasets.load("imdb", fraction=0.04).x_train[:count]
        tokenizer = bert.tokenizer_of(starts.bert_vocabulary())
        return np.array([len(row) + 2 for row in tokenizer(texts)]), "IMDB's lengths"
    except DatasetError:
        # Mean and spread of log(tokens) over 4,000 of IMDB's training texts.
        return np.exp(rng.normal(5.45, 0.63, count)).astype(int) + 2, "drawn lengths"


def batches(lengths, limit, steps, bucketed, rng):
    """Inputs of `steps` batches, all of length `limit`, or each as long as its longest text needs."""
    lengths = np.minimum(rng.permutation(lengths)[: steps * BATCH], limit)
    if bucketed:
        lengths = np.sort(lengths)
    found = []
    for group in lengths.reshape(steps, BATCH):
        size = min(limit, -(-int(group.max()) // BUCKET) * BUCKET) if bucketed else limit
        ids = rng.integers(5, WORDS, (BATCH, size)) * (np.arange(size) < group[:, None])
        found.append((tokens.model_inputs(ids), rng.integers(0, 2, BATCH)))
    return found


def net(model, limit, wrapped, jit):
    """A compiled classifier; wrapped: C-LoRA on the attention, the noise on."""
    import keras_hub

    task = keras_hub.models.BertTextClassifier(bert.backbone(model, WORDS), num_classes=2, compile=False)
    callbacks = []
    if wrapped:
        schedule = cl.LinearDecay(total_steps=10**9, begin=0.0, end=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.BreakEvenWarning)
            task = cl.compress(task, 16, schedule=schedule, targets=nets.targets("bert_tiny", "attention"))
        callbacks = [cl.DecayCallback(initial_step=1000)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile(keras.optimizers.Adam(5e-5), loss, jit_compile=jit)
    return task, callbacks


class Given(keras.utils.PyDataset):
    """Batches that are there already."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __len__(self):
        return len(self.found)

    def __getitem__(self, index):
        return self.found[index]


def measure(model, limit, rounds, steps, lengths, xla):
    """Milliseconds a step: a data frame with a row a round and a column a candidate."""
    rng = np.random.default_rng(0)
    plain = batches(lengths, limit, steps, False, rng)
    sorted_ = batches(lengths, limit, steps, True, rng)
    jits = (
        {"": False, **({", XLA": True} if xla else {})}
        if keras.backend.backend() == "tensorflow"
        else {"": "auto"}
    )
    candidates = {}
    for said, jit in jits.items():
        candidates[f"dense{said}"] = (*net(model, limit, False, jit), plain)
        if jit is not True:  # XLA compiles the step anew for every length
            candidates[f"dense, bucketed{said}"] = (*net(model, limit, False, jit), sorted_)
        candidates[f"noise & bias on attention{said}"] = (*net(model, limit, True, jit), plain)
    rows = []
    for _ in range(rounds + 1):
        row = {}
        for name, (task, callbacks, data) in candidates.items():
            begin = time.perf_counter()
            # Not task.fit: that of a KerasHub Task would take the batches for raw text.
            keras.Model.fit(task, Given(data), epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
            row[name] = 1e3 * (time.perf_counter() - begin) / steps
            for callback in callbacks:  # the next round starts where this one did
                callback.initial_step = 1000
        rows.append(row)
    return pd.DataFrame(rows[1:])  # the first round compiles


def measure_evaluation(model, limit, rounds, steps, lengths):
    """Milliseconds a batch without gradients: a data frame with a row a round and a column a candidate."""
    task, _ = net(model, limit, False, False)
    given = batches(lengths, limit, steps, False, np.random.default_rng(0))
    x = {name: np.concatenate([inputs[name] for inputs, _ in given]) for name in given[0][0]}
    y = np.concatenate([labels for _, labels in given])
    rows = []
    for _ in range(rounds + 1):
        row = {}
        for name, traced in {"dense": False, "dense, traced": True}.items():
            begin = time.perf_counter()
            training.evaluate(task, x, y, batch=BATCH, traced=traced)
            row[name] = 1e3 * (time.perf_counter() - begin) / steps
        rows.append(row)
    return pd.DataFrame(rows[1:])  # the first round traces


def compared(frame):
    """Medians over the rounds, and the ratios to the first column."""
    ratio = frame.div(frame["dense"], axis=0)
    return pd.DataFrame(
        {
            "step": frame.columns,
            "ms": [statistics.median(frame[name]) for name in frame],
            "ratio to dense": [statistics.median(ratio[name]) for name in frame],
            "min": [ratio[name].min() for name in frame],
            "max": [ratio[name].max() for name in frame],
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=["bert_tiny", "minilm"], choices=bert.SHAPES)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--no-xla", dest="xla", action="store_false", help="it takes minutes to compile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    lengths, said = lengths_of_texts(arguments.steps * BATCH, np.random.default_rng(0))
    print(
        f"{said}: median {int(np.median(lengths))} tokens, {100 * np.mean(lengths > 128):.0f}% above 128",
        flush=True,
    )
    for model in arguments.models:
        for limit in arguments.lengths:
            backend = keras.backend.backend()
            title = f"{model}, batch {BATCH}, up to {limit} tokens, {backend}, one thread"
            title += f", {arguments.rounds} rounds of {arguments.steps}"
            given = (model, limit, arguments.rounds, arguments.steps, lengths)
            printing.show(compared(measure(*given, arguments.xla)), f"{title} training steps")
            printing.show(compared(measure_evaluation(*given)), f"{title} evaluated batches")
            sys.stdout.flush()  # minutes pass between the tables


if __name__ == "__main__":
    main()
