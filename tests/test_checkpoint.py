"""Model files: what is saved comes back, and everything else is refused in one sentence."""

import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from has8.errors import BadInput, CheckpointError
from has8.models import create_model
from has8.training.checkpoint import load, save, write_whole

NAMES = ("zero", "one", "two")
TRAINING = {"data": "digits", "seed": 3, "accuracy": 0.5}


def small(seed=0, **options):
    torch.manual_seed(seed)
    options = {"base": 2, "depth": 1, "head": [4], **options}
    return create_model("has8_vgg", num_classes=3, in_channels=1, **options).eval()


def saved(path, model=None, **changes):
    """A good model file, with entries replaced."""
    model = model or small()
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


@settings(deadline=None, max_examples=60)
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


@settings(deadline=None, max_examples=60)
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
