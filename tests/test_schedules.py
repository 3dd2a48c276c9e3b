"""Schedules and the noise gate against NumPy, over whole arrays of steps."""

import dataclasses
import json
import math

import numpy as np
import pytest

from clora_lab import schedules
from clora_lab.schedules import NoiseGate

STEPS = 1000
# kind -> (other arguments, the shape written once more, from its textbook form)
SHAPES = {
    "linear": ({}, lambda u: 1 - u),
    "cosine": ({}, lambda u: np.cos(np.pi * u / 2) ** 2),
    "exponential": ({"rate": 4.0}, lambda u: np.expm1(4 * (1 - u)) / np.expm1(4)),
    "polynomial": ({"power": 2.5}, lambda u: np.power(1 - u, 2.5)),
    "step": ({"drops": 4}, lambda u: np.floor((1 - u) * 4 + 1e-9) / 4),
}
ALL = [*SHAPES, "constant"]
DECAYING = list(SHAPES)


def make(kind, **arguments):
    return schedules.get(kind, STEPS, **{**SHAPES.get(kind, ({}, None))[0], **arguments})


@pytest.mark.parametrize("kind", DECAYING)
@pytest.mark.parametrize(
    ("begin", "end", "floor"), [(0.05, 0.85, 0.0), (0.1, 0.9, 0.25), (0.0, 1.0, 0.0), (0.5, 0.501, 0.9)]
)
def test_formula(kind, begin, end, floor):
    steps = np.arange(-5, 2 * STEPS)
    progress = (steps / STEPS - begin) / (end - begin)
    inside = floor + (1 - floor) * SHAPES[kind][1](np.clip(progress, 0, 1))
    expected = np.where(progress <= 0, 1.0, np.where(progress >= 1, floor, inside))
    decay = make(kind, begin=begin, end=end, floor=floor)(steps)
    np.testing.assert_allclose(decay, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DECAYING)
@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_ends_are_exact(kind, floor):
    schedule = make(kind, begin=0.05, end=0.85, floor=floor)
    assert (schedule(np.arange(0, 51)) == 1.0).all()
    assert (schedule(np.arange(850, 2000)) == floor).all()


@pytest.mark.parametrize("kind", DECAYING)
def test_falls_and_stays_between_floor_and_one(kind):
    decay = make(kind, floor=0.2)(np.arange(STEPS + 1))
    assert (np.diff(decay) <= 0).all() and (np.diff(decay) < 0).any()
    assert decay.min() == 0.2 and decay.max() == 1.0


def test_linear_schedule_of_the_slides():
    # Slide 12: at epoch 20 of 30 d = 0.23, by begin 0.05, end 0.85.
    schedule = schedules.LinearDecay(30, begin=0.05, end=0.85)
    assert schedule(20) == pytest.approx(0.23, abs=0.005)


def test_constant_is_the_same_at_every_step():
    schedule = schedules.ConstantDecay(STEPS, value=0.4)
    assert (schedule(np.arange(2 * STEPS)) == 0.4).all()
    assert schedule(7) == 0.4


def test_power_one_is_linear():
    steps = np.arange(STEPS)
    linear, power = schedules.LinearDecay(STEPS), schedules.PolynomialDecay(STEPS, power=1.0)
    np.testing.assert_array_equal(linear(steps), power(steps))


@pytest.mark.parametrize("drops", [1, 3, 10])
def test_staircase_has_the_drops_asked_for(drops):
    decay = schedules.StepDecay(STEPS, drops=drops)(np.arange(STEPS + 1))
    np.testing.assert_allclose(np.unique(decay), np.linspace(0, 1, drops + 1), atol=1e-12)


@pytest.mark.parametrize("kind", ALL)
def test_scalar_and_array_agree(kind):
    schedule = make(kind)
    steps = np.array([0, 49, 50, 51, 450, 849, 850, 999])
    assert [schedule(int(step)) for step in steps] == schedule(steps).tolist()
    assert all(type(schedule(step)) is float for step in (3, 3.0, np.int64(3), np.float32(3)))
    assert schedule(steps.reshape(2, 4)).shape == (2, 4)
    assert schedule([0, 999]).shape == (2,)


@pytest.mark.parametrize("kind", ALL)
def test_dict_round_trip_through_json(kind):
    schedule = make(kind, begin=0.2, end=0.6, floor=0.1)
    again = schedules.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule and type(again) is type(schedule)
    assert hash(again) == hash(schedule)


@pytest.mark.parametrize("kind", ALL)
def test_printed_form_builds_an_equal_schedule(kind):
    schedule = make(kind)
    assert eval(repr(schedule), vars(schedules)) == schedule


@pytest.mark.parametrize("kind", ALL)
def test_frozen_and_compared_by_value(kind):
    schedule = make(kind)
    assert schedule == make(kind)
    assert schedule != dataclasses.replace(schedule, total_steps=STEPS + 1)
    assert schedule != make("cosine" if kind == "linear" else "linear")
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.begin = 0.5


def test_from_dict_leaves_its_argument_alone():
    config = make("step").to_dict()
    copy = dict(config)
    schedules.from_dict(config)
    assert config == copy


# Bad input


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("total", [0, -1, 1.5, True, "10", None])
def test_total_steps_below_one_or_no_integer(kind, total):
    with pytest.raises(ValueError, match=r"`total_steps` must be an integer of at least 1") as error:
        schedules.get(kind, total)
    assert f"Received: {total!r}" in str(error.value)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (0.9, 0.1)])
def test_begin_not_before_end(begin, end):
    with pytest.raises(ValueError, match="`begin` must be smaller than `end`") as error:
        schedules.LinearDecay(10, begin=begin, end=end)
    assert f"begin={begin}, end={end}" in str(error.value)


@pytest.mark.parametrize("argument", ["begin", "end", "floor"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "0.5", None, True])
def test_fractions_outside_of_zero_to_one(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}` must be a number in \[0, 1\]") as error:
        schedules.LinearDecay(10, **{argument: value})
    assert f"Received: {value!r}" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        ("exponential", "rate", 0.0),
        ("polynomial", "power", -1.0),
        ("step", "drops", 0),
        ("step", "drops", 2.0),
        ("constant", "value", 1.5),
    ],
)
def test_arguments_of_one_kind(kind, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be") as error:
        schedules.get(kind, 10, **{argument: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "near"), [("lineer", "linear"), ("Cosine", "cosine"), ("exp", "exponential")]
)
def test_unknown_kind_suggests_the_nearest(kind, near):
    with pytest.raises(ValueError, match="`schedule` must be one of") as error:
        schedules.get(kind, 10)
    assert repr(kind) in str(error.value) and f"Did you mean {near!r}?" in str(error.value)


def test_unknown_kind_like_nothing_gets_no_suggestion():
    with pytest.raises(ValueError, match="Received: 'xyzzy'") as error:
        schedules.get("xyzzy", 10)
    assert "Did you mean" not in str(error.value)


def test_unknown_argument_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'power'"):
        schedules.get("polynomial", 10, powr=2.0)


@pytest.mark.parametrize("config", [{}, {"kind": "linear"}, {"total_steps": 10}])
def test_incomplete_dict(config):
    with pytest.raises(ValueError, match="'kind' and 'total_steps'"):
        schedules.from_dict(config)


# Noise gate


@pytest.mark.parametrize(
    ("gate", "threshold"),
    [("scheduled", 0.3), ("until_end", 0.0), ("never", None), (0.7, 0.7), (NoiseGate(0.1), 0.1)],
)
def test_gate_over_all_decays(gate, threshold):
    decay = np.linspace(0, 1, 201)
    expected = np.zeros_like(decay) if threshold is None else (decay >= threshold) & (decay < 1)
    gate = NoiseGate.get(gate)
    np.testing.assert_array_equal(gate(decay), expected)
    assert [gate(float(d)) for d in decay] == expected.astype(float).tolist()


def test_gate_of_the_slides():
    # 'none once d < 0.3': at 0.3 there is still noise
    gate = NoiseGate()
    assert (gate(0.3), gate(np.nextafter(0.3, 0)), gate(1.0)) == (1.0, 0.0, 0.0)
    assert gate == NoiseGate.get("scheduled") and repr(gate) == "NoiseGate(threshold=0.3)"


def test_until_the_end_goes_on_through_the_cool_down():
    assert NoiseGate.get("until_end")(0.0) == 1.0


def test_unknown_gate_suggests_the_nearest():
    with pytest.raises(ValueError, match="`noise_gate` must be one of") as error:
        NoiseGate.get("until_the_end")
    assert "Did you mean 'until_end'?" in str(error.value)


@pytest.mark.parametrize("threshold", [-0.1, math.nan, True, None])
def test_impossible_gate_threshold(threshold):
    with pytest.raises(ValueError, match="`noise_gate` must be a number in") as error:
        NoiseGate.get(threshold)
    assert repr(threshold) in str(error.value)
    with pytest.raises(ValueError, match="`threshold` must be a number in"):
        NoiseGate(threshold)
