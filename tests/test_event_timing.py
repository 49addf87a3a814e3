"""Messages wait for one another: exact times of a few, and laws over many, compiled or not."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from test_timing import LOIHI, SANAFE, SMALL, activity, chain, its_activity, side_by_side

from has8.errors import BadInput
from hwsim.price.event_timing import event_timing, jobs_of, longest_chain, network_of
from hwsim.price.messages import messages_of
from hwsim.price.queues import ENDLESS, Jobs, Network, _plain, times
from hwsim.price.steps import steps_of
from hwsim.price.timing import MeanTiming, chip_time, step_ns
from hwsim.price.traffic import NEURONS, segment_loads
from hwsim.price.turns import turns
from mapping.cores.routes import routes

HOST = -7
"""In place of a sender: the host."""


def row(cores=3, hold=2.0, delay=5.0, buffer=ENDLESS, overlaps=True):
    """Routers in a row from west to east, with a core each."""
    links = np.full(4 * cores, 0.0)
    return Network(cores, np.arange(cores), links + hold, links + delay, buffer, overlaps)


def jobs(*messages, cores=3):
    """One step of (sender, destination, gap, service)."""
    sender, dest, gap, service = np.array(messages, float).reshape(-1, 4).T
    sender = np.where(sender == HOST, cores, sender).astype(np.int64)
    return Jobs(np.array([0, len(sender)]), sender, dest.astype(np.int64), gap, service)


def went(network, *messages):
    """When each message was sent, at its core, and taken in."""
    found = times(network, jobs(*messages, cores=len(network.where)))
    return list(zip(found.sent, found.arrived, found.done, strict=True))


def test_one_core_goes_through_its_neurons_and_takes_its_own_message_in():
    assert went(row(), (0, 0, 10, 30), (0, -1, 5, 0)) == [(10, 10, 40), (15, 15, 15)]


def test_a_message_takes_each_hops_time_and_a_second_one_waits_for_it_at_the_core():
    network = row()
    one = (10, 20, 50)  # two hops of 5
    assert went(network, (0, 2, 10, 30)) == [one]
    assert went(network, (0, 2, 10, 30), (0, 2, 1, 30)) == [one, (11, 22, 80)]


def test_two_cores_share_a_link_which_sends_one_message_at_a_time():
    """Both are at router 1 at 15 and bound for 2; the link takes 20 for each."""
    network = row(hold=20.0)
    # over the first link 10 to 30; then the neighbour's is under way, 15 to 35, until 35
    assert went(network, (0, 2, 10, 1), (1, 2, 15, 1)) == [(10, 55, 56), (15, 35, 36)]


def test_a_full_buffer_stops_the_sender():
    """One message may wait for core 1: the third stays on core 0, whose neurons wait as well."""
    three = [(0, 1, 1, 100), (0, 1, 1, 100), (0, 1, 1, 100), (0, 1, 1, 100), (0, -1, 1, 0)]
    network = row(hold=0.0, delay=0.0)
    assert [done for *_, done in went(network, *three)] == [101, 201, 301, 401, 5]
    narrow = went(replace(network, buffer=1), *three)
    assert [sent for sent, *_ in narrow] == [1, 2, 3, 101, 102]
    assert [done for *_, done in narrow] == [101, 201, 301, 401, 102]


def test_what_the_host_sends_is_there_at_once_and_needs_no_room():
    found = went(row(buffer=1), (HOST, 1, 9, 10), (HOST, 1, 9, 10), (0, 1, 1, 10))
    assert found == [(0, 0, 10), (0, 0, 20), (1, 6, 30)]


def test_a_core_that_does_not_overlap_does_one_thing_at_a_time():
    """Its neurons take 50; a message that arrives meanwhile is next."""
    both = [(0, 0, 10, 30), (0, -1, 50, 0)]
    assert [done for *_, done in went(row(), *both)] == [40, 60]
    assert [done for *_, done in went(row(overlaps=False), *both)] == [90, 60]


@st.composite
def problems(draw):
    """A few cores on a small mesh, and random messages in two steps."""
    width, height, each = (draw(st.integers(1, 3)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    cores, links = width * height * each, 4 * width * height
    buffer = draw(st.sampled_from([1, 2, 16, ENDLESS]))
    network = Network(
        width,
        np.repeat(np.arange(width * height), each),
        rng.choice([0.3, 8.7], links),
        rng.choice([4.1, 6.5], links),
        buffer,
        draw(st.booleans()),
    )
    counts = [draw(st.integers(0, 40)) for _ in range(2)]
    sender = np.concatenate([np.sort(rng.integers(0, cores + 1, n)) for n in counts])
    dest = rng.integers(-1, cores, len(sender))
    dest[(sender == cores) & (dest < 0)] = 0
    gap, service = rng.integers(0, 500, (2, len(sender))) / 10
    return network, Jobs(np.cumsum([0, *counts]), sender, dest, gap, service)


@law(25)
@given(problems())
def test_compiled_or_not_times_are_the_same_and_no_queue_works_faster_than_it_can(problem):
    network, some = problem
    found, plain = times(network, some), _plain(network, some)
    for name in ("ready", "sent", "arrived", "done"):
        assert (getattr(found, name) == getattr(plain, name)).all(), name
    order = (found.ready <= found.sent) & (found.sent <= found.arrived)
    assert (order & (found.arrived <= found.done)).all()
    for step, end in enumerate(found.ends(some)):
        here = slice(some.first[step], some.first[step + 1])
        for core in range(len(network.where)):
            neurons = some.gap[here][some.sender[here] == core].sum()
            messages = some.service[here][some.dest[here] == core].sum()
            work = max(neurons, messages) if network.overlaps else neurons + messages
            assert end >= work - 1e-9


@law(25)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=9),
    st.integers(0, 8),
    st.sampled_from([1, 3, ENDLESS]),
)
def test_a_message_more_makes_no_other_one_earlier(pairs, place, buffer):
    """Of one core, to another, one way: what overtakes elsewhere may make a third one earlier."""
    network = row(buffer=buffer)
    many = [(0, 2, gap, service) for gap, service in pairs]
    place = min(place, len(many) - 1)
    # its neuron works in any case, so that the gap stays with the next one
    gap = many[place][2] + (many[place + 1][2] if place + 1 < len(many) else 0)
    fewer = many[:place] + many[place + 1 :]
    if place < len(fewer):
        fewer[place] = (0, 2, gap, fewer[place][3])
    more, less = went(network, *many), went(network, *fewer)
    del more[place]
    assert (np.array(more).reshape(-1, 3) >= np.array(less).reshape(-1, 3) - 1e-9).all()


def test_a_steps_end_is_traced_back_to_the_first_message_of_a_queue_and_to_its_sender():
    """Core 1's arrives at core 2 at 15 and is taken in until 45; core 0's waits there till then."""
    network, some = row(), jobs((0, 2, 20, 40), (0, -1, 1, 0), (1, 2, 10, 30), (1, 1, 9, 1))
    found = times(network, some)
    assert longest_chain(network, some, found, 0) == {
        "core 2": 40 + 30,
        "link 1,0 to 2,0": 5,
        "core 1": 10,
    }
    stops = [(0, 1, 1, 100), (0, 1, 1, 100), (0, 1, 1, 1), (0, 1, 1, 1), (0, -1, 300, 0)]
    network, some = row(hold=0.0, delay=0.0, buffer=1), jobs(*stops)
    # the third waits for room in front of core 1, the fourth on core 0 until that has moved at 101
    chain = longest_chain(network, some, times(network, some), 0)
    assert chain == {"core 0": 4 + 300, "link 0,0 to 1,0": 97}


# Of a mapping


def followed(mapped, samples, mode="gated"):
    """The load of its one run, and how long its steps are by both models."""
    loads = segment_loads(mapped, sum(samples[1:], samples[0]), mode, tuple(samples))
    timing = event_timing(mapped, loads, samples, mode)
    target, n = mapped.target, len(samples)
    ours = [timing.step_ns(load, n, SANAFE, target).value for load in loads]
    return loads, ours, [step_ns(load, n, SANAFE, target).value for load in loads], timing


@pytest.mark.parametrize("mode", ["gated", "pipeline", "reset"])
def test_all_messages_together_are_the_counts_of_the_price(mode):
    mapped, run = side_by_side(), its_activity(side_by_side())
    events = {name: np.minimum(counts, 1) for name, counts in run.events.items()}
    events["s.in"][1, 2] = events["s.p"][0, :3] = events["t.p"][2, 1] = 1
    run = replace(run, samples=1, events=events, updated={**events, "s.p": events["s.p"] * 0 + 1})
    ways = tuple(routes(mapped.placement, mapped.chip_segments))
    loads = segment_loads(mapped, run, mode)
    for turn, load in zip(turns(mapped, mode), loads, strict=True):
        sums = {event: np.zeros_like(counts) for event, counts in load.by_core.items()}
        for some in (range(1), range(1, turn.steps)):  # in two pieces
            found = messages_of(mapped, turn.parts(run), ways, some)
            step = np.repeat(some, np.diff(found.first))
            for event, summed in sums.items():
                cores = found.sender if event in NEURONS else found.dest
                there = (cores >= 0) & (cores < len(summed))
                np.add.at(summed, (cores[there], step[there]), found.events[event][there])
        for event, counts in load.by_core.items():
            assert (sums[event] == counts).all(), event
        assert load.by_core["message_out"].any()


def test_where_nothing_waits_a_step_is_its_busiest_core_as_in_the_mean():
    """No message between cores: what the host sends is there when the step begins."""
    quiet = activity(**{"in": [1, 0], "p0": [0, 0], "p1": [0, 1]})
    (load,), (ours,), (mean,), timing = followed(chain([0, 1]), [quiet])
    assert ours == pytest.approx(mean, rel=1e-12)
    assert timing.waits_ns(load, 1, SANAFE, SMALL)[0] == {"core 0": 16 + 4 * 3.8}
    assert timing.waits_ns(load, 1, SANAFE, SMALL)[3] == {"core 1": 4 * 6 + 30 + 5.1}


def test_a_step_ends_when_its_last_message_is_taken_in():
    """Neuron 0 of core 0 fires behind 6 + 30 ns; then the message leaves, hops, and is taken in."""
    fires = activity(**{"in": [0, 0], "p0": [1, 0], "p1": [0, 0]})
    (load,), (ours,), (mean,), timing = followed(chain([0, 1]), [fires])
    sent, hop, taken = 6 + 30 + 5.1, 4.1, 16 + 4 * 3.8
    assert ours[1] == pytest.approx(sent + hop + taken)
    assert mean[1] == pytest.approx(4 * 6 + 30 + 5.1 + hop)
    waits = timing.waits_ns(load, 1, SANAFE, SMALL)[1]
    assert waits == pytest.approx({"core 1": taken, "link 0,0 to 1,0": hop, "core 0": sent})


def test_the_model_reaches_a_runs_time_and_its_ranges():
    fires = activity(**{"in": [0, 0], "p0": [1, 0], "p1": [0, 0]})
    mapped = chain([0, 1])
    (load,), (ours,), _, timing = followed(mapped, [fires, fires])
    time = chip_time(mapped, load, 2, SANAFE, timing)
    assert time.work_us.value == pytest.approx(ours.sum() / 1e3)
    assert time.work_us.low < time.work_us.value < time.work_us.high
    with pytest.raises(BadInput, match="none was run alone: simulate with apart=8"):
        event_timing(mapped, [load], [], "gated")


def test_what_a_step_waits_for_by_the_mean_is_its_busiest_core_and_the_longest_way():
    fires = activity(**{"in": [0, 0], "p0": [1, 0], "p1": [0, 0]})
    mapped = chain([0, 1])
    loads, *_, timing = followed(mapped, [fires, fires])
    for model in (MeanTiming(), timing):
        steps = list(steps_of(mapped, loads, 2, SANAFE, model))
        times = model.step_ns(loads[0], 2, SANAFE, SMALL).value / 1e3 + 1.0 + 4.13
        assert [step.us for step in steps] == pytest.approx(times)
        assert {step.bottleneck for step in steps} == {"management"}
        barriers = [(step.waits_us["barrier"], step.waits_us["management"]) for step in steps]
        assert barriers == [(1.0, 4.13)] * 4  # of two routers
    (_, second, *_) = steps_of(mapped, loads, 2, SANAFE, MeanTiming())
    assert second.waits_us["core 0"] == pytest.approx((4 * 6 + 30 + 5.1) / 1e3)
    assert second.waits_us["way"] == pytest.approx(4.1 / 1e3)


def test_links_between_chips_are_slower_and_the_sheet_says_how_many_messages_wait():
    mapped = chain([0, 1, 2])  # a core a router, two routers a chip
    network = network_of(mapped, SANAFE)
    assert network.hold.reshape(3, 4)[:, 0].tolist()[:2] == pytest.approx([1 / 3.44, 30 / 3.44])
    assert network.delay.reshape(3, 4)[0].tolist() == [4.1, 4.1, 6.5, 6.5]
    assert (network.buffer, LOIHI.citations["chip.link_buffer"].source[:2]) == (16, "SF")
    plain = msgspec.structs.replace(
        SMALL, chip=msgspec.structs.replace(SMALL.chip, link_buffer=None)
    )
    assert network_of(replace(mapped, target=plain), SANAFE).buffer == ENDLESS


def test_what_an_accounting_says_sets_the_times():
    mapped, davies = chain([0]), LOIHI.accounting("davies2018")
    run = activity(**{"in": [1, 0], "p0": [1, 0]})
    (turn,) = turns(mapped, "gated")
    ways = routes(mapped.placement, mapped.chip_segments)
    some = jobs_of(messages_of(mapped, turn.parts(run), ways, range(2)), davies)
    # the host's message and what the core has left; then a spike for the host, and the rest
    assert some.service.tolist() == pytest.approx([0, 4 * 3.5, 0, 0])
    assert some.gap.tolist() == pytest.approx([4 * 5.3, 0, 5.3 + 2.1, 3 * 5.3])
    assert some.first.tolist() == [0, 2, 4]
