"""Model files: what is saved comes back, and everything else is refused in one sentence."""

import os
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from has8.errors import BadInput, CheckpointError
from has8.models import create_model
from has8.plain import plain
from has8.training import checkpoint
from has8.training.checkpoint import load, save, write_whole

NAMES = ("zero", "one", "two")
TRAINING = {"data": "digits", "seed": 3, "accuracy": 0.5}


def small(seed=0, **options):
    torch.manual_seed(seed)
    options = {"base": 2, "depth": 1, "head": [4], **options}
    return create_model("has8_vgg", num_classes=3, in_channels=1, **options).eval()


def saved(path, model=None, **changes):
    """A good model file, with entries replaced."""
    model = small() if model is None else model
    save(path, model, input_shape=(1, 8, 8), class_names=NAMES, provenance=TRAINING)
    if changes:
        payload = torch.load(path, weights_only=True)
        torch.save({**payload, **changes}, path)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good model file and the weights in it."""
    path = saved(tmp_path_factory.mktemp("good") / "model.pt")
    return path.read_bytes(), small().state_dict()


# Laws


def test_what_is_saved_comes_back(tmp_path):
    model = small(seed=4)
    model.train()
    checkpoint = load(saved(tmp_path / "deep" / "model.pt", model))
    x = torch.rand(5, 1, 8, 8)
    assert not checkpoint.model.training
    assert torch.equal(checkpoint.model(x), model.eval()(x))
    assert checkpoint.config == checkpoint.model.config == model.config
    assert (checkpoint.input_shape, checkpoint.class_names) == ((1, 8, 8), NAMES)
    assert checkpoint.provenance.items() >= TRAINING.items()
    assert checkpoint.provenance["torch"] == torch.__version__ and checkpoint.provenance["has8"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    one, two = saved(tmp_path / "one.pt"), saved(tmp_path / "two.pt")
    assert one.read_bytes() == two.read_bytes()


@law(60)
@given(st.data())
def test_a_damaged_file_is_refused_or_harmless(good, tmp_path_factory, data):
    content, weights = good
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    if data.draw(st.booleans(), label="cut"):
        content = content[:place]
    else:
        flip = data.draw(st.integers(1, 255), label="flip")
        content = content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
    path = tmp_path_factory.mktemp("damaged") / "model.pt"
    path.write_bytes(content)
    try:
        model = load(path).model
    except CheckpointError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@law(60)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("noise") / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load(path)


# Refusals


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_never_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    with (tmp_path / "bare.pt").open("wb") as file:
        pickle.dump({"format": "has8", "model": Evil(marker)}, file, protocol=protocol)
    torch.save({"format": "has8", "model": Evil(marker)}, tmp_path / "zip.pt")
    for name in ("bare.pt", "zip.pt"):
        with pytest.raises(CheckpointError, match="refused: it contains code"):
            load(tmp_path / name)
    assert not marker.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())
    assert marker.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="refused: it contains code"):
        load(tmp_path / "model.pt")


def test_a_torchscript_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/code/__torch__.py", "class Model(Module): pass")
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no has8 file or is damaged"),
        (b"epoch,loss\n1,0.5\n", "no has8 file or is damaged"),
        (bytes(range(256)), "no has8 file or is damaged"),
        (pickle.dumps({"a": 1}, protocol=2), "no has8 file"),
    ],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "model.pt")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        load(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)


def test_a_bare_state_dict_is_named_as_such(tmp_path):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="is a bare state_dict"):
        load(tmp_path / "model.pt")


def test_a_flipped_weight_is_noticed(tmp_path, good):
    content, weights = good
    raw = weights["blocks.0.ann.0.weight"].numpy().tobytes()
    place = content.index(raw)
    (tmp_path / "model.pt").write_bytes(content[:place] + b"\x00\x00" + content[place + 2 :])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2 .* reads version 1"),
        ({"format": "other"}, "is no has8 file"),
        ({"config": {"name": "has8_vog", "num_classes": 3}}, "unknown model 'has8_vog'"),
        ({"config": {"name": "has8_vgg", "num_classes": 3, "wide": 1}}, "no option 'wide'"),
        ({"config": {"num_classes": 3}}, "cannot be built"),
        ({"config": None}, "bad or missing entry"),
        ({"input_shape": [8, 8]}, "bad or missing entry"),
        ({"state_dict": {}}, "do not belong .* is missing there"),
    ],
)
def test_contents_that_do_not_fit(tmp_path, changes, message):
    path = saved(tmp_path / "model.pt", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_model(tmp_path):
    path = saved(tmp_path / "model.pt", state_dict=small(base=3).state_dict())
    with pytest.raises(CheckpointError, match=r"do not belong .* is \(3,.* there and \(2,.* here"):
        load(path)


def test_a_model_without_config_is_not_saved(tmp_path):
    with pytest.raises(BadInput, match="create_model"):
        save(tmp_path / "m.pt", torch.nn.Linear(1, 1), input_shape=(1, 1, 1), class_names=NAMES)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        saved(tmp_path / "file" / "model.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="cannot write"):
        saved(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_who_reads_while_a_file_is_replaced_sees_the_whole_old_one(tmp_path):
    path = saved(tmp_path / "model.pt")
    before = path.read_bytes()
    with path.open("rb") as reader:
        saved(path, small(seed=8))
        assert reader.read() == before != path.read_bytes()


def test_a_write_that_breaks_off_leaves_the_old_file_alone(tmp_path):
    path = saved(tmp_path / "model.pt")
    before = path.read_bytes()

    def half(file):
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, half)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


# What is saved loads, or is not saved


PLAIN = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
HELD = st.recursive(
    PLAIN
    | st.floats()
    | st.builds(np.float64, st.floats(allow_nan=False, allow_infinity=False))
    | st.builds(np.int32, st.integers(-9, 9))
    | st.builds(np.str_, st.text(max_size=3))
    | st.builds(Path, st.just("a/b"))
    | st.just(object())
    | st.just(torch.ones(2)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.builds(lambda x: Namespace(x=x), inner)
    ),
    max_leaves=6,
)


@law(60)
@given(value=HELD)
def test_what_python_code_holds_is_saved_or_refused_before_anything_is_written(
    tmp_path_factory, value
):
    path = tmp_path_factory.mktemp("held") / "model.pt"
    model = small()
    try:
        save(path, model, input_shape=(1, 8, 8), class_names=NAMES, provenance={"fact": value})
    except BadInput as error:
        assert "provenance.fact" in str(error)
        assert not list(path.parent.iterdir())
    else:
        assert load(path).provenance["fact"] == plain(value, "fact")


def test_a_config_of_numpy_and_namespaces_is_made_plain(tmp_path):
    model = small()
    model.config = Namespace(
        **{**model.config, "base": np.int64(2), "name": np.str_("has8_vgg"), "head": (4,)}
    )
    save(
        tmp_path / "model.pt",
        model,
        input_shape=np.array([1, 8, 8]),
        class_names=np.array(NAMES),
    )
    loaded = load(tmp_path / "model.pt")
    assert loaded.config == small().config
    assert (loaded.input_shape, loaded.class_names) == ((1, 8, 8), NAMES)


def neuron_of(model):
    return model.blocks[0].snn.neuron


def changed(change):
    model = small()
    change(model)
    return model


@pytest.mark.parametrize(
    "wrap",
    [torch.nn.DataParallel, lambda m: torch.compile(m, backend="eager")],
    ids=["parallel", "compiled"],
)
def test_a_wrapped_model_is_saved_as_the_one_inside(tmp_path, wrap):
    loaded = load(saved(tmp_path / "model.pt", wrap(small(seed=5))))
    weights = small(seed=5).state_dict()
    assert loaded.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.model.state_dict().items())


def conv_of(model):
    return model.blocks[0].ann[0]


CANNOT = {
    "pruned": (lambda m: prune.random_unstructured(conv_of(m), "weight", 0.5), "prune.remove"),
    "parametrised": (lambda m: weight_norm(conv_of(m)), "remove_parametrizations"),
    "half": (lambda m: m.half(), "model.float"),
    "double": (lambda m: m.double(), "model.float"),
    "another gain": (lambda m: setattr(neuron_of(m), "gain", 0.25), "gain of blocks.0.snn.neuron"),
    "another alpha": (lambda m: setattr(neuron_of(m), "alpha", 3.0), "alpha of blocks.0.snn"),
    "another stride": (lambda m: setattr(conv_of(m), "stride", (2, 2)), "stride of blocks.0.ann.0"),
    "another eps": (lambda m: setattr(m.blocks[0].ann[1], "eps", 0.1), "eps of blocks.0.ann.1"),
    "another module": (lambda m: setattr(m, "pool", torch.nn.AdaptiveMaxPool2d(1)), "pool is a"),
    "another layer": (lambda m: m.add_module("more", torch.nn.ReLU()), "more is a ReLU"),
    "not finite": (lambda m: conv_of(m).weight.data.fill_(float("nan")), "not finite"),
    "a learned beta": (lambda m: setattr(neuron_of(m), "beta", torch.ones(4)), "beta"),
    "another config": (lambda m: m.config.update(base=3), "do not belong"),
    "no such config": (lambda m: m.config.update(name="mine"), "unknown model"),
    "an odd config": (lambda m: m.config.update(mean=object()), "config.mean is a object"),
    "more outputs": (lambda m: m.config.update(num_classes=4), "do not belong"),
}


@pytest.mark.parametrize(("change", "message"), CANNOT.values(), ids=CANNOT)
def test_what_would_not_come_back_is_not_saved(tmp_path, change, message):
    path = saved(tmp_path / "model.pt")
    before = path.read_bytes()
    with pytest.raises(BadInput, match=message) as caught:
        saved(path, changed(change))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("names", [NAMES[:2], [*NAMES, "more"], []])
def test_there_is_one_name_for_each_output(tmp_path, names):
    with pytest.raises(BadInput, match="class_names is for"):
        save(tmp_path / "m.pt", small(), input_shape=(1, 8, 8), class_names=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8), (1, 8, 0), (1, 2**20, 2**20), (1, 8, 8.5)])
def test_the_input_shape_is_one_of_the_model(tmp_path, shape):
    with pytest.raises(BadInput, match="input_shape"):
        save(tmp_path / "m.pt", small(), input_shape=shape, class_names=NAMES)
    assert not list(tmp_path.iterdir())


# Budgets


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", "/dev/zero"):
        with pytest.raises(CheckpointError, match="a pipe or a device"):
            load(path)


def repacked(path, compression=zipfile.ZIP_STORED, **more):
    """The same archive, written anew, with further entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {**entries, **more}.items():
            archive.writestr(name, content)


def test_entries_hold_no_more_than_the_file(tmp_path):
    path = saved(tmp_path / "model.pt")
    repacked(path, zipfile.ZIP_DEFLATED, **{"archive/data/99": bytes(2**22)})
    assert path.stat().st_size < 2**20
    with pytest.raises(CheckpointError, match="no has8 file or is damaged"):
        load(path)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "has8_vgg", "depth": 10**7},
        {"name": "has8_vgg", "base": 10**7},
        {"name": "has8_vgg", "head": [10**9]},
        {"name": "has8_vgg", "base": 10**30},
        {"name": "has8_resnet", "depth": 10**7},
        {"name": "has8_resnet", "base": 10**6},
        {"name": "sew_resnet18", "steps": 10**7},
        {"name": "sew_resnet18", "steps": 10**7, "coding": "duplicate"},
    ],
)
def test_a_config_of_a_few_bytes_takes_no_memory(tmp_path, monkeypatch, config):
    path = saved(tmp_path / "model.pt", config={"num_classes": 3, "in_channels": 1, **config})
    monkeypatch.setattr(checkpoint, "create_model", only_without_memory)
    with pytest.raises(CheckpointError, match="cannot be built|do not belong"):
        load(path)


def only_without_memory(**config):
    assert torch.get_default_device().type == "meta"
    return create_model(**config)


def test_numbers_that_are_not_in_the_file_are_not_taken_from_it(tmp_path):
    state = small().state_dict()
    state["blocks.0.ann.0.weight"] = torch.zeros(1, 1, 1, 1).expand(2, 1, 3, 3)
    with pytest.raises(CheckpointError, match="repeated"):
        load(saved(tmp_path / "model.pt", state_dict=state))


def test_values_in_values_and_in_themselves_end():
    deep = wide = []
    for _ in range(2000):
        deep = [deep]
    for _ in range(60):
        wide = [wide, wide]
    itself = {}
    itself["again"] = itself
    for value in (deep, wide, itself):
        with pytest.raises(BadInput, match="too large or too deep"):
            plain(value, "config")


def test_what_torch_builds_beside_tensors_is_refused(tmp_path):
    torch.save({"format": "has8", "version": 1, "device": torch.device("cpu")}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="refused"):
        load(tmp_path / "m.pt")
