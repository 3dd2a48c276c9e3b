"""What a study is: one page of declarations, from which grid, columns, command line and titles follow.

A page in `clora_lab.studies` makes one `Study`. What only that study does is a hook, a method of its
subclass of `Hooks`; everything else is here and in `clora_lab.lab.bench`. Nothing here loads Keras.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clora_lab import _checks, methods
from clora_lab.lab.data import registry as datasets
from clora_lab.lab.nets import registry as nets
from clora_lab.lab.published import Published
from clora_lab.lab.settings import DECAY, IDENTITY, OF_ANY_PAIR, SHARED, STAGES, Field, Run

# A recipe: the fields that it changes for all methods and cells, or a function of both that gives the fields
# of each run, for a recipe that is not a product of the two.
Recipe = Mapping[str, object] | Callable[[Sequence[str], Sequence[dict]], Iterable[dict]]

# What a row has beside the fields of its run.
MEASURED = ("split", "view", "metric", "value")
PROVENANCE = ("backend", "keras_version", "backend_version", "clora_version", "python", "processor", "date")
FACTS = ("train_size", "test_size")  # of the data that was really used
EPOCH = ("epoch", "step", "decay", "noise", "loss", "accuracy")
# First in every file: what names a run for its reader.
FIRST = ("study", "dataset", "model", "method", "rank", "init", "variant", "seed")


class Hooks:
    """What only one study does. A page overrides what its study has.

    The first ones are asked before any work and load no Keras; from `data` on the bench asks them, in the
    process that carries out the run.
    """

    alone: tuple[str, ...] = ()  # methods whose decaying path is measured on its own too (slide 12)
    calibration: int = 1000  # training examples that an activation-aware start looks at
    evaluation: Mapping[str, object] = {}  # arguments of `training.evaluate`
    resumable: bool = True  # whether an interrupted run goes on from its last epoch, or begins anew
    shapes: tuple[str, ...] = ()  # fields beside data set and model that the net's shape depends on
    splits: tuple[str, ...] = ("test",)  # what a grid's tables are of
    wide: bool = False  # whether the README's table has the cells as columns

    def resolve(self, dataset: str, among: Sequence[str], download: bool = True) -> str:
        """The data set that a name stands for; "auto" is the first of a study's that can be had."""
        return datasets.resolve(dataset, among, download)

    def usual(self, chosen: Mapping) -> dict:
        """Fields that go with those that were chosen, unless they are chosen too (a model's own start)."""
        return {}

    def original(self, run: Run) -> dict:
        """Fields of the run that trains the net from which `run` starts; the others have their defaults."""
        return run.only("study", "dataset", "model", "seed")

    def things(self, what: Mapping) -> str:
        """What the data set consists of, for titles: "images"."""
        return "examples"

    def shared(self, run: Run) -> Run:
        """The run under whose name an original net is cached, for runs that train the same."""
        return run

    def report(self, study: Study, rows, splits: Sequence[str] = ()) -> None:
        """Print recorded rows as tables, of the study's own splits by default, and what came out."""
        from clora_lab.lab import printing

        for split in splits or self.splits:
            printing.report(rows, study.apart_in(rows), split)

    def markdown(self, study: Study, rows, split: str = "test") -> str:
        """The same for the README."""
        from clora_lab.lab import printing, tables

        show = printing.wide if self.wide else printing.markdown
        return show(tables.compare(rows, study, split))

    def data(self, run: Run):
        """The `clora_lab.lab.bench.Data` of a run."""
        raise NotImplementedError(f"{type(self).__name__} has no data.")

    def net(self, run: Run, data, fresh: bool = False):
        """The net of a run before any training here, uncompiled.

        Args:
            run: of the study.
            data: of the run.
            fresh: from random values, whatever the study usually starts from.
        """
        raise NotImplementedError(f"{type(self).__name__} has no net.")

    def origin(self, run: Run, method, original, data):
        """The net that a method compresses: the trained original, or an untrained one if it asks for that."""
        return original if method.starts_from_original else self.net(run, data, fresh=True)

    def compression(self, run: Run, net) -> dict:
        """`rank`, `targets` and so on of `clora_lab.compress`."""
        return {"rank": run["rank"], "targets": None}

    def free(self, run: Run, method) -> tuple[str, ...]:
        """Names of layers that train although the method froze them."""
        return ()

    def compiled(self, run: Run, steps: int) -> dict:
        """Further arguments of Keras' compile(), for `steps` steps an epoch."""
        return {}

    def taught(self, run: Run, model, teacher, data) -> tuple:
        """For a distillation: the model to train, its (inputs, labels), and arguments of compile()."""
        raise NotImplementedError(f"{type(self).__name__} has no distillation.")


@dataclass(frozen=True)
class Study:
    """One study.

    Args:
        name: in the results and on the command line.
        title: in a few words.
        net: its nets, by their names in `clora_lab.lab.nets.registry`; the first is the default.
        data: its data sets, by their names in `clora_lab.lab.data.registry`; the best first, the last needs
            no download.
        defaults: fields of `SHARED` and `DECAY` whose default is another here.
        axes: the study's own fields.
        variants: name of each recipe -> what it changes, see `Recipe`; the first is the default.
        ranks: the cells of a grid, as ints or tuples in the order of `cells`; by data set, or for all ("").
        methods: those of a grid that names none, in the registry's order.
        fixed: method -> field -> the values that it may have there, the first unless another is chosen:
            settings that the recorded names of these methods say.
        cells: the columns that name a cell of a table beside the method.
        together: columns that must agree for rows to stand in one table; None for every field that is
            neither method nor seed nor in `cells`.
        apart: columns that split rows into tables, a title each. The original net's rows, which have no
            use for those that belong to a compression, go with each table (`apart_of_original`).
        ratios: metric -> convention of `clora_lab.ratio`, or a function of the run that gives it.
        published: the published tables, see `Published`.
        small: data set -> arguments of `grid` for a live run of the notebooks, sized to take a minute.
        stages: of `STAGES`, those that the study can do.
        recipes: what a variant is called on the command line.
        jobs: processes of a grid where none are asked for; 0 for one for each core.
        examples: settings for the command line's help.
        hooks: what only this study does.
        base: the study whose names its runs share, where it isn't itself: such a run's name says its study.

    Example:
        >>> from clora_lab import studies
        >>> toy = studies.get("toy")
        >>> len(toy.grid(dataset="digits"))
        35
    """

    name: str
    title: str
    net: tuple[str, ...]
    data: tuple[str, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    axes: Mapping[str, Field] = field(default_factory=dict)
    variants: Mapping[str, Recipe] = field(default_factory=lambda: {"slides": {}})
    ranks: Mapping[str, Sequence] = field(default_factory=lambda: {"": (16, 32, 64)})
    methods: tuple[str, ...] = methods.names("slides", "baselines")
    fixed: Mapping[str, Mapping[str, tuple]] = field(default_factory=dict)
    cells: tuple[str, ...] = ("rank",)
    together: tuple[str, ...] | None = None
    apart: tuple[str, ...] = ("dataset", "variant")
    ratios: Mapping[str, str | Callable[[Run], str]] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    small: Mapping[str, Mapping] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    recipes: str = "variant"
    jobs: int = 1
    examples: tuple[str, ...] = ("",)
    hooks: Hooks = field(default_factory=Hooks)
    base: str = ""

    def __post_init__(self):
        own = {"study": self.base or self.name, "model": self.net[0]} | dict(self.defaults)
        fields = {**SHARED, **self.axes, **{name: STAGES[name] for name in self.stages}, **DECAY}
        for name in own:
            _checks.one_of("defaults", name, fields)
        fields["model"] = _with(fields["model"], choices=self.net)
        fields["dataset"] = _with(fields["dataset"], choices=self.data)
        fields = {name: _with(each, default=own.get(name, each.default)) for name, each in fields.items()}
        object.__setattr__(self, "fields", fields)

    # --- runs ---------------------------------------------------------------------------------------

    def run(self, **given) -> Run:
        """One run of the study; what is not given has its default.

        Args:
            **given: fields; `dataset` and `method` at least.

        Raises:
            ValueError: an unknown field, or a value that it can't have; the message names the nearest.

        Example:
            >>> from clora_lab import studies
            >>> studies.get("vgg16").run(dataset="cifar10", method="wds", rank=16, dense_rank=32).key
            'vgg16 wds rank 16/32 loralib seed 0 (slides)'
        """
        for name in IDENTITY:
            if name not in given:
                raise ValueError(f"`{name}` must be given: a run has no default of it.")
        method = self.fields["method"].check("method", given["method"])
        given = {"study": self.name, **given}
        fields = self._fields_of(method, given)
        fixed = self.fixed.get(method, {})
        values = {}
        for name, each in fields.items():
            if method == methods.ORIGINAL and each.original is not None:
                wrong = given.get(name, each.original)
                if wrong != each.original:
                    raise ValueError(
                        f"`{name}` of the method {method!r} must be {each.original!r}. Received: {wrong!r}."
                    )
                values[name] = each.original
                continue
            value = each.check(name, given[name]) if name in given else fixed.get(name, (each.default,))[0]
            if value not in fixed.get(name, (value,)):
                raise ValueError(
                    f"`{name}` of the method {method!r} must be one of {fixed[name]}. Received: {value!r}."
                )
            if name not in given and each.original is not None:
                each.check(name, value)  # a rank has no default of its own
            values[name] = value
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", values["study"], re.ASCII):
            raise ValueError(
                "`study` must be a name of letters, digits, '_' and '-', such as 'toy'. "
                f"Received: {values['study']!r}."
            )
        known = nets.entry(values["model"]).starts
        if "start" in values and nets.FOLDER not in known:
            _checks.one_of("start", values["start"], known)
        run = Run(self, tuple(values.items()))
        run.decay(1)
        own = own_settings(method)
        if own:
            methods.find(method)(**run.only(*own))  # checks what only it knows
        return run

    def original(self, run: Run) -> Run:
        """The run that trains the net from which `run` starts: itself, if it is one."""
        return self.run(**self.hooks.original(run), method=methods.ORIGINAL)

    def moved(self, run: Run) -> dict:
        """The fields that a run's name says: dataset and method, and what is not as by default."""
        return {name: value for name, value in run.items() if self.names_a_run(run, name, value)}

    def names_a_run(self, run: Run, name: str, value) -> bool:
        """Whether a field is in the run's name: dataset and method are, others where they moved."""
        return name in IDENTITY or value != self._fields_of(run["method"], {name: value})[name].default

    def key(self, run: Run) -> str:
        """A run in a few words."""
        several = [name for name in self.net if nets.entry(name).targets] != [run["model"]]
        words = [run["model"]] if several else []
        words.append(run["method"])
        if not run.is_original:
            words.append("rank " + "/".join(str(run[name]) for name in self.cells))
            words += [run[name] for name, each in self.axes.items() if each.original == ""]
        return " ".join([*words, f"seed {run['seed']} ({run['variant']})"])

    def grid(self, **chosen) -> list[Run]:
        """The runs of a grid: every combination of what is chosen, the original nets first.

        Args:
            **chosen: fields, a value or a sequence of values each. `variant` takes names of `variants`;
                `rank` takes cells: ints, or tuples in the order of `cells`. What is not chosen: the study's
                ranks and methods, the first variant, seed 0, and the defaults. The original net of each run
                is always in the grid.

        Raises:
            ValueError: an unknown field or name, an impossible value, or nothing to choose from.

        Example:
            >>> from clora_lab import studies
            >>> len(studies.get("bert").grid(dataset="imdb", rank=16, seed=range(3)))
            27
        """
        chosen = {name: _several(name, values) for name, values in chosen.items()}
        single = {name: values[0] for name, values in chosen.items() if len(values) == 1}
        outer = ("variant", "seed", "method", *self.cells)  # what is asked for once, for all points
        usual = {"variant": next(iter(self.variants)), "seed": 0, "method": self.methods}
        usual |= {name: value for name, value in self.hooks.usual(single).items() if name in outer}
        chosen = {**{name: _several(name, values) for name, values in usual.items()}, **chosen}
        variants, seeds, wanted = (chosen.pop(name) for name in outer[:3])
        for name in wanted:
            _checks.one_of("method", name, methods.ENTRIES)
        wanted = sorted(set(wanted), key=methods.order)
        ranks = {name: chosen.pop(name) for name in self.cells if name in chosen}
        found: list[Run] = []
        for values in itertools.product(*chosen.values()):
            point = dict(zip(chosen, values, strict=True))
            if "dataset" not in point:
                raise ValueError("`dataset` must be given: a run has no default of it.")
            cells = self._cells(ranks, self.fields["dataset"].check("dataset", point["dataset"]))
            for variant in variants:
                recipe = self.variants[_checks.one_of("variant", variant, self.variants)]
                usual = {n: v for n, v in self.hooks.usual(point).items() if n not in outer}
                for seed in seeds:
                    for fields in self._points(recipe, wanted, cells):
                        own = {**usual, "variant": variant, **fields, **point, "seed": seed}
                        found.append(self.run(**self._allowed(own)))
        return list(dict.fromkeys([*(run.original for run in found), *found]))

    def _points(self, recipe: Recipe, wanted: Sequence[str], cells: Sequence[dict]) -> Iterable[dict]:
        if callable(recipe):
            yield from recipe(wanted, cells)
            return
        for method in wanted:
            # The slides' settings are none of a method that brings its own.
            own = {n: v for n, v in recipe.items() if n not in DECAY or not own_settings(method)}
            for cell in [{}] if method == methods.ORIGINAL else cells:
                yield {**own, **cell, "method": method}

    def _cells(self, ranks: Mapping[str, Sequence], dataset: str) -> list[dict]:
        """The cells of a grid as fields: (16, 32) names both ranks of one, 16 alone is all of them."""
        usual = self.ranks.get(dataset, self.ranks.get(""))
        first, *others = self.cells
        found = []
        for cell in ranks.get(first, usual):
            parts = cell if isinstance(cell, Sequence) else (cell,)
            if len(parts) == 1 and others:
                choices = [ranks.get(name, parts) for name in others]
                found += [(*parts, *more) for more in itertools.product(*choices)]
            elif len(parts) == len(self.cells):
                found.append(tuple(parts))
            else:
                raise ValueError(
                    f"`{first}` must have {' / '.join(self.cells)} in each cell, such as "
                    f"{'/'.join(['16'] * len(self.cells))}. Received: {cell!r}."
                )
        return [dict(zip(self.cells, cell, strict=True)) for cell in found]

    def _allowed(self, fields: dict) -> dict:
        """Fields without those that the method can't have: the others of the grid asked for them."""
        method = fields["method"]
        fixed = self.fixed.get(method, {})
        found = {name: value for name, value in fields.items() if value in fixed.get(name, (value,))}
        if methods.family(method) != "slides":
            fading = set(DECAY) - set(OF_ANY_PAIR) - set(fixed) - set(own_settings(method))
            for name in fading & set(found):
                DECAY[name].check(name, found.pop(name))  # to no effect, but not unsaid
        if method == methods.ORIGINAL:
            own = {name for name, each in self.fields.items() if each.original is None}
            found = {name: value for name, value in found.items() if name in own}
        return found

    def field(self, name: str, wanted: Iterable[str] = ()) -> Field:
        """A field by its name: the study's, or a setting of one of the methods that are wanted.

        Raises:
            ValueError: there is none; the nearest one is suggested.
        """
        fields = dict(self.fields)
        for method in wanted:
            fields |= own_settings(_checks.one_of("method", method, methods.ENTRIES))
        return fields[_checks.one_of("field", name, fields)]

    def _fields_of(self, method: str, given: Iterable[str]) -> Mapping[str, Field]:
        """The fields of a method's runs: the study's, and the method's own in their place."""
        fields = {**self.fields, **own_settings(method)}
        for name in given:
            _checks.one_of("field", name, fields)
        return fields

    # --- columns ------------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the study's rows; a method's own settings stand before the last one."""
        first = [name for name in FIRST if name in self.fields]
        rest = [name for name in self.fields if name not in first]
        return (*first, *MEASURED, *rest, *FACTS, "seconds", *PROVENANCE, "config")

    @property
    def types(self) -> dict[str, type]:
        """Column -> int, float, str or bool; what is not listed is text."""
        types = {name: each.kind for name, each in self.fields.items()}
        numbers = {"value": float, "seconds": float, **dict.fromkeys(FACTS, int)}
        epochs = dict.fromkeys(("epoch", "step"), int) | dict.fromkeys(EPOCH[2:], float)
        return {**types, **numbers, **epochs}

    @property
    def compressing(self) -> tuple[str, ...]:
        """The fields that the original net has no use for: what is compressed, and how far."""
        return tuple(name for name, each in self.fields.items() if each.original is not None)

    # --- data and titles ----------------------------------------------------------------------------

    def resolve(self, dataset: str, download: bool = True) -> str:
        """The data set that a name stands for; "auto" ends in one that runs here.

        Args:
            dataset: one of `data`, which is returned as it is, or "auto".
            download: whether "auto" may fetch one.

        Raises:
            ValueError: the study has none of that name.
            DatasetDamaged: what is on this machine is damaged.
        """
        return self.hooks.resolve(dataset, self.data, download)

    def title_of(self, what: Mapping) -> str:
        """Net, start and data of a run or of a row, for titles.

        Example:
            >>> from clora_lab import studies
            >>> study = studies.get("bert")
            >>> study.title_of(study.run(dataset="imdb", method="wds", rank=16))
            'BERT-Tiny (pretrained here on IMDB) on IMDB'
        """
        net = nets.entry(what["model"])
        named = nets.title(net.name, what["start"]) if "start" in self.fields else net.title or net.label
        return f"{named} on {datasets.title(what['dataset'])}"

    def describe(self, rows) -> str:
        """The title of a table: net, start, data and how much of it, recipe, what is compressed how.

        Args:
            rows: a data frame of recorded rows that stand in one table, see `apart`.
        """
        compressed = rows[rows["method"] != methods.ORIGINAL]
        first = (compressed if len(compressed) else rows).iloc[0]
        sizes = f"{first['train_size']:,} training, {first['test_size']:,} test {self.hooks.things(first)}"
        epochs = f"{max(rows['epochs'] if compressed.empty else compressed['epochs'])} epochs"
        if "dense_epochs" in first:
            epochs += f" from a dense net of {first['dense_epochs']}"
        if first.get("distillation", 0.0) > 0.0:
            epochs += f", which gives {first['distillation']:.0%} of the loss"
        own = [first[name] for name in self.apart if name in self.compressing]
        own += [f"{name} {first[name]}" for name in self.apart if name in DECAY or name not in self.columns]
        recipe = f"recipe '{first['variant']}' ({epochs})"
        return ", ".join([f"{self.title_of(first)} ({sizes})", recipe, *own])

    # --- what a table may hold ----------------------------------------------------------------------

    @property
    def must_agree(self) -> tuple[str, ...]:
        """`together`, or every field but method, seed and cells."""
        if self.together is not None:
            return self.together
        return tuple(name for name in self.fields if name not in ("method", "seed", *self.cells))

    @property
    def apart_of_original(self) -> tuple[str, ...]:
        """Those columns of `apart` that the original net has as well; its rows go with each of the others."""
        return tuple(
            name for name in self.apart if name in self.columns and name not in (*self.compressing, *DECAY)
        )

    def apart_in(self, rows) -> Study:
        """The study with tables for each value of whatever a grid moved beside its recipes.

        Args:
            rows: a data frame of recorded rows.
        """
        fixed = ("method", "seed", "study", *self.cells, *self.apart)
        runs = rows.drop_duplicates("config").groupby(["method", *self.cells, *self.apart], dropna=False)
        moved = [
            name for name in self.fields if name not in fixed and (runs[name].nunique(dropna=False) > 1).any()
        ]
        return dataclasses.replace(self, apart=(*self.apart, *moved)) if moved else self


@functools.cache
def own_settings(method: str) -> Mapping[str, Field]:
    """The settings that a method brings with it, by the fields of its class.

    The slides' methods, what a table owes beside them, and the references have those of `DECAY` or none; to
    ask any other method loads its file, and so Keras.
    """
    if methods.family(method) != "trained":
        return {}
    return {
        each.name: Field(each.default, f"of the method {method}")
        for each in dataclasses.fields(methods.find(method))
        if isinstance(each.default, (bool, int, float, str))
    }


def _several(name: str, values) -> list:
    values = [values] if isinstance(values, (str, int, float)) else list(values)
    if not values:
        raise ValueError(f"`{name}` is empty. Give at least one.")
    return values


def _with(each: Field, **changes) -> Field:
    return dataclasses.replace(each, **changes)
