"""Errors: what they say, the fields that they keep, and that both survive another process."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from has8 import errors
from has8.errors import DoesNotFit, Has8Error, UnknownName
from has8.registry import Registry
from has8.text import printable

KINDS = {
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Has8Error)
}
WITH_FIELDS = {
    UnknownName: st.builds(UnknownName, st.text(), st.text(), st.lists(st.text())),
    DoesNotFit: st.builds(
        DoesNotFit,
        st.text(),
        st.text(),
        need=st.integers(),
        have=st.integers(),
        hint=st.text(),
    ),
}
ANY_ERROR = st.one_of(
    *(WITH_FIELDS.get(kind, st.builds(kind, st.text())) for kind in sorted(KINDS, key=str))
)


class Custom(Has8Error):
    """What code on top of has8 may define: arguments of its own, all of them required."""

    def __init__(self, *, first, second):
        self.first, self.second = first, second
        super().__init__(f"{first} and {second}")


# Laws


@given(ANY_ERROR, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_an_error_survives_pickling_whole(error, protocol):
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


@given(st.builds(UnknownName, st.text(), st.text(), st.lists(st.text())))
def test_the_nearest_name_is_a_known_one_and_the_message_has_all_fields(error):
    assert error.nearest is None or error.nearest in error.known
    assert list(error.known) == sorted(error.known)
    for text in (error.kind, repr(error.name), *error.known):
        assert printable(text) in str(error)


# Examples


def test_an_unknown_name_keeps_what_was_asked_for():
    with pytest.raises(UnknownName) as caught:
        Registry("slope").get("x")
    assert (caught.value.kind, caught.value.known, caught.value.nearest) == ("slope", (), None)
    error = UnknownName("target", "lohi", ["truenorth", "loihi"])
    assert (error.name, error.known) == ("lohi", ("loihi", "truenorth"))
    assert error.nearest == "loihi"
    assert str(error) == ("unknown target 'lohi': did you mean 'loihi'? known are loihi, truenorth")


def test_a_layer_that_does_not_fit_keeps_its_numbers():
    error = DoesNotFit("conv", "synapse bits", need=2_000_000, have=1_000, hint="use fewer bits")
    again = pickle.loads(pickle.dumps(error))
    assert (again.layer, again.resource, again.hint) == ("conv", "synapse bits", "use fewer bits")
    assert (again.need, again.have) == (2_000_000, 1_000)
    assert str(again) == (
        "layer 'conv' does not fit on a core: it needs at least 2,000,000 synapse bits and a core "
        "has 1,000; use fewer bits"
    )


def test_an_error_of_other_code_and_its_notes_survive_too():
    error = Custom(first=1, second="two")
    error.__notes__ = ["seen in worker 3"]
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (Custom, "1 and two", vars(error))
