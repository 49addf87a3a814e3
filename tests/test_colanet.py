"""CoLaNET: each rule by hand, the compiled form equal to the plain one, and that it learns."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from builders import law
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from has8 import create_model, load_checkpoint, load_data
from has8.cli.train import train
from has8.colanet import RULES, CoLaNET, Rule, answers, compiled, plain
from has8.colanet.network import FACTORS
from has8.colanet.plain import Network, Neuron, draw, weight, winner
from has8.colanet.state import State
from has8.errors import BadInput, Has8Error, UnknownName
from has8.training import local
from has8.training.run_folder import RunFolder
from hwsim import agreement, compare
from mapping import map_model

PAGE = Path(__file__).parent.parent / "docs" / "colanet.md"
RULE = Rule(
    columns=2,
    membrane_steps=2,
    threshold=1.0,
    threshold_share=0.5,
    noise=0.0,
    lowest=-1.0,
    highest=1.0,
    anti_hebb=-0.5,
    dopamine=0.75,
    stability_ratio=2.0,
    silent_synapses=1,
    steps=4,
)
"""Constants that binary fractions hold, so that sums by hand are exact."""


def neuron(*weights: float, rule: Rule = RULE, stability: float = 0.0) -> Neuron:
    """With resources that give these weights: ``W = (w - w_min) span / (w_max - w)``."""
    span = rule.highest - rule.lowest
    resource = [(w - rule.lowest) * span / (rule.highest - w) for w in weights]
    return Neuron(rule, resource, stability, 0.0)


def test_a_weight_saturates_in_its_resource_and_forgets_nothing_below_its_lowest():
    assert weight(RULE, RULE.first_resource) == 0.0
    assert [weight(RULE, w) for w in (-5.0, 0.0, 2.0, 6.0)] == [-1.0, -1.0, 0.0, 0.5]
    assert weight(RULE, 1e12) < RULE.highest


def test_a_rule_for_fewer_active_inputs_is_the_rule_with_each_input_there_several_times():
    many = replace(RULES.get("mnist_tuned"), columns=3, silent_synapses=8, active=80.0)
    few = many.for_active(23.0)  # a fourth, as powers of two go
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (60,), generator=generator)
    rates = torch.rand(3, 1, 40, generator=generator)[labels]
    spikes = torch.rand(60, many.steps, 40, generator=generator) < rates
    states = State.new(many, 160, 3, 1, 0), State.new(few, 40, 3, 1, 0)
    counts = [
        plain.run(state, rule, shown, labels, first=0)
        for state, rule, shown in zip(
            states, (many, few), (spikes.repeat_interleave(4, 2), spikes), strict=True
        )
    ]
    assert torch.equal(*counts) and counts[0].sum() > 25
    assert torch.allclose(4 * states[0].resource[..., ::4], states[1].resource)
    assert torch.allclose(states[0].thresholds(many), states[1].thresholds(few))
    assert many.for_active(100.0) == many and few.active == 20.0
    with pytest.raises(BadInput, match="active must be above 0"):
        many.for_active(0.0)


def test_a_threshold_knows_the_positive_weights():
    assert neuron(0.5, -0.5, 0.25).threshold == 1.0 + 0.5 * 0.75


def test_a_potential_leaks_and_stops_at_zero_and_a_closed_gate_lets_nothing_in():
    one = neuron(0.0)
    one.integrate(0, 0.5)
    one.integrate(1, 0.25)
    assert one.v == 0.5
    one.open_from = 3
    one.integrate(2, 9.0)
    assert one.v == 0.25
    one.integrate(3, -9.0)
    assert one.v == 0.0


def test_contributing_synapses_pay_once_in_a_tight_sequence_and_never_for_a_forced_spike():
    rule = replace(RULE, mark_steps=2, sequence_steps=3)
    one = neuron(0.0, 0.0, 0.0, rule=rule)
    one.contribute(1, [1, 0, plain.NEVER], forced=False)  # both within two steps
    assert one.resource == [1.5, 1.5, 2.0]
    one.contribute(3, [3, 0, 3], forced=False)  # the same sequence: only what is new pays
    assert (one.resource, one.began) == ([1.5, 1.5, 1.5], 1)
    one.contribute(6, [6, 0, 5], forced=False)  # three steps later: a new one
    assert (one.resource, one.began, one.marks) == ([1.0, 1.5, 1.0], 6, {0, 2})
    assert one.unspent == 2.5
    forced = neuron(0.0)
    forced.contribute(4, [4], forced=True)
    assert (forced.resource, forced.marks, forced.unspent) == ([2.0], {0}, 0.0)


def test_a_reward_pays_marked_synapses_less_the_stabler_the_neuron_is():
    one = neuron(0.0, 0.0, stability=1.0)
    one.contribute(0, [0, plain.NEVER], forced=False)
    one.reward(10)
    assert one.resource == [2.0 + 0.5 * (-0.5 + 0.75), 2.0]
    assert one.stability == 1.0 + 2.0 * 0.75 * 2.0  # ten steps after the sequence began: the most
    late = neuron(0.0)
    late.contribute(0, [0], forced=False)
    late.reward(50)
    assert late.stability == 2.0 * 0.75 * -1.0
    forced = neuron(0.0, stability=0.25)
    forced.contribute(0, [0], forced=True)
    forced.reward(3)
    assert forced.stability == 0.0


def test_renormalisation_gives_back_what_was_spent_once_it_is_a_whole():
    one = neuron(0.0, 0.0, 0.0)
    one.unspent = 0.75
    one.end()
    assert one.resource == [2.0, 2.0, 2.0]
    one.unspent = -1.0
    one.end()
    assert (one.resource, one.unspent) == ([1.75, 1.75, 1.75], 0.0)  # a silent synapse takes part
    assert one.threshold == RULE.threshold


def test_the_furthest_above_its_threshold_wins_and_the_first_of_equals():
    column = [neuron(0.0), neuron(0.0), neuron(0.5)]
    for one, v in zip(column, (1.5, 1.5, 1.6), strict=True):
        one.v = v
    assert winner(column) is column[0]
    assert winner([neuron(0.0)]) is None
    assert winner([neuron(0.0)], forcing=1.0) is not None


def network(*columns: list[Neuron], rule: Rule = RULE) -> Network:
    return Network(rule, list(columns), 0, 0.0)


def test_a_winner_closes_its_column_but_itself():
    column, other = [neuron(0.5), neuron(0.75)], [neuron(0.0), neuron(0.0)]
    shown = network(column, other)
    for one in column:
        one.threshold = 0.25
    assert shown.show([[True], [True], [True], [False]], None, 0) == [3, 0]
    assert [one.open_from for one in column] == [13, 0]
    assert column[0].v == 0.5 * 0.5 * 0.5 * 0.5  # only what came in the first step


def test_a_silent_column_forces_its_best_neuron_and_only_that_learns():
    column, other = [neuron(0.0, 0.0), neuron(0.25, 0.0)], [neuron(0.0, 0.0), neuron(0.0, 0.0)]
    assert network(column, other).show([[True, False]] * 4, 0, 0) == [0, 0]
    assert column[0].resource == other[0].resource == [2.0, 2.0]
    first = (0.25 + 1.0) * 2.0 / 0.75
    assert column[1].resource == [first + 0.75, 2.0]


def test_a_column_that_fires_for_another_class_pays_and_gets_nothing():
    column, other = [neuron(0.0), neuron(0.0)], [neuron(0.75), neuron(0.0)]
    network(column, other).show([[True]] * 4, 0, 0)
    assert other[0].resource == [(0.75 + 1.0) * 2.0 / 0.25 - 0.5]
    assert other[1].resource == [2.0]


def test_in_five_layers_all_that_fire_pay_and_the_winner_is_rewarded():
    rule = replace(RULE, lateral=False)
    column = [neuron(0.75, rule=rule), neuron(0.5, rule=rule)]
    for one in column:
        one.threshold = 0.25
    before = [one.resource[0] for one in column]
    network(column, [neuron(0.0), neuron(0.0)], rule=rule).show([[True]] + [[False]] * 3, 0, 0)
    assert [one.resource[0] - was for one, was in zip(column, before, strict=True)] == [0.25, -0.5]


def test_draws_are_those_of_splitmix64():
    """The first two outputs of the generator that begins with the seed 0, as published."""
    gold = 0x9E3779B97F4A7C15
    inverse = pow(gold, -1, 2**64)
    for place, output in ((1, 0xE220A8397B1DCDAF), (2, 0x6E789E6AA1B965F4)):
        seed = place * gold * inverse % 2**64
        assert draw(seed, 0, 0, 0) == (output >> 11) * 2.0**-53
    assert draw(0, 1, 0, 0) != draw(0, 0, 1, 0) != draw(0, 0, 0, 1)


@pytest.mark.skipif(compiled.library() is None, reason="no compiler")
@law(8)
@given(
    name=st.sampled_from(RULES.names()),
    lateral=st.booleans(),
    threshold=st.sampled_from((0.5, 1.5, 4.0)),
    inputs=st.integers(1, 9),
    columns=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_compiled_rule_equals_the_plain_one_bit_for_bit(
    name, lateral, threshold, inputs, columns, seed
):
    rule = replace(
        RULES.get(name), lateral=lateral, threshold=threshold, columns=columns, silent_synapses=1
    )
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (20,), generator=generator)
    rates = torch.rand(3, 1, inputs, generator=generator)[labels]
    spikes = torch.rand(20, rule.steps, inputs, generator=generator) < rates
    one, other = (State.new(rule, inputs, 3, 2, seed) for _ in range(2))
    for answer, excitability in ((labels, 0.0), (None, 0.3)):
        counts = [
            run(state, rule, spikes, answer, first=7, excitability=excitability)
            for run, state in ((plain.run, one), (compiled.run, other))
        ]
        assert torch.equal(*counts)
        for field in fields(State):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert not torch.equal(one.resource, State.new(rule, inputs, 3, 2, seed).resource)


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    images, labels = data.train.tensors(len(data.train))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order], *data.test.tensors(len(data.test))


def test_copies_learn_digits_in_one_pass_and_are_better_together(digits):
    images, labels, tests, right = digits
    few_inputs = {"highest": 1.0, "lowest": -1.0, "anti_hebb": -0.5, "dopamine": 0.5}
    net = CoLaNET(64, 10, replace(RULES.get("mnist"), **few_inputs), columns=5, copies=4)
    net.learn(images, labels)
    counts = net.counts(tests, merged=False)
    single = answers(counts.flatten(0, 1)) == right.repeat(4)
    together = answers(net.counts(tests)) == right
    assert together.float().mean() > max(0.84, single.float().mean() + 0.02)


def test_learning_goes_on_where_it_stood_also_from_a_file(digits):
    images, labels, tests, _ = digits
    at_once, in_parts = (CoLaNET(64, 10, columns=2, copies=2, seed=3) for _ in range(2))
    at_once.learn(images[:90], labels[:90])
    in_parts.learn(images[:40], labels[:40])
    again = CoLaNET.from_dict(in_parts.to_dict())
    again.learn(images[40:90], labels[40:90])
    assert again.shown == 90
    assert torch.equal(at_once.state.resource, again.state.resource)
    assert torch.equal(at_once.counts(tests), again.counts(tests))
    other = CoLaNET(64, 10, columns=2, copies=2, seed=4)
    other.learn(images[:90], labels[:90])
    assert not torch.equal(at_once.state.resource, other.state.resource)


def test_no_two_copies_share_a_draw_even_if_their_neurons_are_shifted():
    seeds = CoLaNET(64, 10, copies=3).state.seeds.tolist()
    draws = [draw(seed, 5, 1, neuron) for seed in seeds for neuron in range(200)]
    assert len(set(draws)) == len(draws)


def test_without_a_compiler_it_is_the_plain_rule(digits, monkeypatch):
    images, labels, *_ = digits
    nets = [CoLaNET(64, 10, columns=1, copies=1) for _ in range(2)]
    nets[0].learn(images[:15], labels[:15])
    monkeypatch.setattr(compiled, "library", lambda: None)
    nets[1].learn(images[:15], labels[:15])
    assert torch.equal(nets[0].state.resource, nets[1].state.resource)


def test_the_excitability_is_the_middle_one_of_those_as_good_as_the_best(monkeypatch):
    right = dict(zip(FACTORS, (60, 80, 88, 90, 85, 87, 91, 80, 80, 88, 92, 70), strict=True))
    ones = torch.ones(100, dtype=torch.long)
    # Of 92 in 100 the standard error is 2.7: 0.9 with 90, 1.2 with 91 and 2.0 are as good. A leak
    # of a quarter lets a neuron fire without input from 1.0 on.
    for membrane_steps, factor in ((1, 1.2), (4, 0.9)):
        rule = replace(RULES.get("mnist"), membrane_steps=membrane_steps)
        net = CoLaNET(1, 2, rule, columns=1, copies=1)

        def counts(x, net=net):
            known = torch.arange(len(x)) < right[round(net.excitability / net.rule.noise, 3)]
            return torch.stack([~known, known], 1).int()

        monkeypatch.setattr(net, "counts", counts)
        assert net.choose_excitability(torch.zeros(100, 1), ones) == factor * rule.noise


@pytest.mark.parametrize(("noise", "copies", "shown"), [(2.212, 10, 1366), (5.0, 4, 300)])
def test_without_input_a_chip_stays_silent(digits, noise, copies, shown):
    images, labels, tests, right = digits
    rule = replace(RULES.get("mnist_tuned"), noise=noise).for_active(20.0)  # 5.0: no factor is left
    net = CoLaNET(64, 10, rule, copies=copies)
    net.learn(images[:shown], labels[:shown])
    net.choose_excitability(images[shown:][:71], labels[shown:][:71])
    model = local.classifier(net, (1, 8, 8))
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 8, 8)).sum() == 0
        assert (answers(model(tests)) == right).float().mean() > 0.5


def test_no_spike_is_no_answer():
    assert answers(torch.tensor([[0, 0], [1, 1], [0, 2]])).tolist() == [-1, 0, 1]


def test_what_cannot_be_learned_is_refused_and_changes_nothing():
    net = CoLaNET(4, 2, columns=1, copies=1)
    before = {key: str(value) for key, value in net.to_dict().items()}
    x, labels = torch.rand(3, 4), torch.tensor([0, 1, 1])
    for samples, answer in (
        (x[:, :3], labels),
        (x, labels[:2]),
        (x, labels.float()),
        (x, labels + 1),
        (x + 1, labels),
    ):
        with pytest.raises(BadInput):
            net.learn(samples, answer)
    assert {key: str(value) for key, value in net.to_dict().items()} == before
    with pytest.raises(UnknownName):
        CoLaNET(4, 2, "minst")
    with pytest.raises(BadInput, match="lowest must be below 0"):
        replace(RULE, lowest=0.5)
    with pytest.raises(BadInput):
        CoLaNET.from_dict({**net.to_dict(), "seeds": torch.zeros(2)})


OPTIONS = ["columns=3", "copies=2", "highest=1", "lowest=-1", "anti_hebb=-0.5", "dopamine=0.5"]


def learn_by_command(out, *more: str) -> dict:
    options = [word for option in OPTIONS for word in ("--option", option)]
    arguments = ["colanet", "--data", "digits", *options, "--out", str(out), "--json", *more]
    done = CliRunner().invoke(train, arguments, catch_exceptions=False)
    return json.loads(done.stdout) if done.exit_code == 0 else {"exit code": done.exit_code}


def test_a_command_without_constants_fits_the_weights_to_the_data(tmp_path):
    arguments = ["colanet", "--data", "digits", "--out", str(tmp_path), "--json", "--quiet"]
    done = CliRunner().invoke(train, [*arguments, "--option", "columns=4"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["test_accuracy"] > 0.75
    assert load_checkpoint(found["model"]).provenance["colanet"]["active"] == 25.0


def test_a_run_that_was_interrupted_comes_to_the_same_model(tmp_path, monkeypatch):
    whole = learn_by_command(tmp_path / "whole", "--subset", "300", "--quiet")
    monkeypatch.setattr(local, "SAVE_EVERY", 60)
    learn, calls = CoLaNET.learn, []

    def interrupted(net, *arguments):
        calls.append(net.shown)
        if len(calls) == 3:
            raise KeyboardInterrupt
        learn(net, *arguments)

    monkeypatch.setattr(CoLaNET, "learn", interrupted)
    assert learn_by_command(tmp_path / "parts", "--subset", "300") == {"exit code": 130}
    parts = learn_by_command(tmp_path / "parts", "--subset", "300")
    assert calls == [0, 60, 120, 120, 180, 240, 285]
    files = [load_checkpoint(result["model"]) for result in (whole, parts)]
    one, other = (file.model.state_dict() for file in files)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole["test_accuracy"] == parts["test_accuracy"] > 0.7
    assert files[0].provenance["colanet"]["anti_hebb"] == -0.5
    with pytest.raises(BadInput, match="belongs to another run .seed is 0 there.* start over with"):
        learn_by_command(tmp_path / "parts", "--subset", "300", "--seed", "1")


def test_a_folder_of_another_training_is_refused_unless_started_over(tmp_path):
    """Neither way of training writes over what the other one left, model or state."""
    learn_by_command(tmp_path, "--subset", "60")
    gradients = RunFolder(tmp_path, {"model": "has8_vgg", "seed": 0})
    with pytest.raises(
        BadInput, match=r"colanet.pt belongs to another run \(only there: .*colanet"
    ):
        gradients.read(resume=True)
    (tmp_path / "colanet.pt").unlink()
    with pytest.raises(BadInput, match=r"model.pt belongs to another run \(only here: model\)"):
        gradients.read(resume=True)
    gradients.write_state({})
    with pytest.raises(BadInput, match="last.pt belongs to another run"):
        learn_by_command(tmp_path, "--subset", "60")
    learn_by_command(tmp_path, "--subset", "80", "--restart")
    assert not (tmp_path / "last.pt").exists()
    assert load_checkpoint(tmp_path / "model.pt").provenance["subset"] == 80
    (tmp_path / "colanet.pt").unlink()
    with pytest.raises(
        BadInput, match="model.pt belongs to another run .subset is 80 there and 60"
    ):
        learn_by_command(tmp_path, "--subset", "60")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "3"], "leave out --epochs"),
        (["--from", "x.pt"], "leave out --from"),
        (["--option", "depth=3"], "no option 'depth'; its options are rule, copies, columns"),
        (["--option", "rule=minst"], "did you mean 'mnist'"),
        (["--subset", "0"], "subset must be a whole number of at least 1"),
    ],
)
def test_what_belongs_to_gradients_is_refused(tmp_path, more, message):
    with pytest.raises(Has8Error, match=message):
        learn_by_command(tmp_path, *more)
    assert not list(tmp_path.iterdir())


def test_a_chip_runs_what_was_learned_and_lava_agrees_in_every_spike(digits):
    images, labels, tests, right = digits
    rule = replace(
        RULES.get("mnist"), columns=2, highest=1.0, lowest=-1.0, anti_hebb=-0.5, dopamine=0.5
    )
    few = labels < 3
    net = CoLaNET(64, 3, rule, copies=1)
    net.learn(images[few], labels[few])
    model = local.classifier(net, (1, 8, 8))
    kept = right < 3
    with torch.no_grad():
        counts = model(tests[kept])
    assert (answers(counts) == right[kept]).float().mean() > 0.9
    mapped = map_model(model, target="loihi", calibration=images[:32])
    assert [segment.side for segment in mapped.partition.segments] == ["host", "chip", "host"]
    assert agreement(mapped, tests[kept], labels=right[kept]).accuracy > 0.9
    assert compare(mapped, tests[kept][:1], "fast", "lava").equal


def test_a_spike_inhibits_the_others_of_its_column_and_copy_alone():
    model = create_model(
        "colanet", num_classes=2, in_channels=1, size=[1, 1], columns=2, copies=2, steps=2
    )
    with torch.no_grad():
        model.drive.weight.fill_(0.0)
        model.drive.bias.copy_(torch.tensor([2.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]))
        assert model(torch.zeros(1, 1, 1, 1)).tolist() == [[2 + 0 + 1 + 1, 1 + 1 + 1 + 1]]


def test_the_page_runs_as_it_stands(capsys):
    (code,) = re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert 0.7 < float(capsys.readouterr().out.strip()[7:-1]) < 1
