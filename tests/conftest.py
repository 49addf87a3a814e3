"""What several test files need: small trained-like models, real data, one thread a process."""

import signal
from functools import cache

import pytest
import torch
from builders import times_laws
from hypothesis import HealthCheck, settings

from has8 import calibrate, create_model, load_data
from has8.data import batches
from has8.files import write_whole
from has8.kernels import paths

settings.register_profile(
    "busy", max_examples=times_laws(50), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")  # no test depends on how fast something is
torch.set_num_threads(1)  # tests run in several processes
# A seed of no device but the CPU: without one, torch.manual_seed keeps a trace of the stack for it.
torch.manual_seed = torch.default_generator.manual_seed
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that children can be interrupted

SMALL = {
    "has8_vgg": {"base": 6, "depth": 2, "head": (24,)},
    "has8_resnet": {"base": 6, "depth": 2},
}


EPOCHS = 6


@cache
def _warmed(kind, folder):
    """A small model trained for a few seconds, so that neurons fire and answers mean something.

    ``kind`` is a name of :data:`SMALL`, with "-" and a neuron behind it where that is not a LIF.
    ``folder`` is where the processes of one test run leave each other what they have trained.
    """
    name, _, neuron = kind.partition("-")
    options = {"neuron": neuron} if neuron else {}
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, in_channels=1, **SMALL[name], **options)
    trained = folder / f"{kind}.pt"
    if not trained.exists():
        _train(model)
        write_whole(trained, lambda path: torch.save(model.state_dict(), path))
    model.load_state_dict(torch.load(trained, weights_only=True))
    return calibrate(model)


def _train(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    data = load_data("digits")
    for epoch in range(EPOCHS):
        for images, labels in batches(data.train, 64, shuffle_seed=epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()


@pytest.fixture
def plain():
    """Plain torch without fast paths, whose rounding a traced graph repeats bit for bit."""
    with paths.plain():
        yield


@pytest.fixture(scope="session")
def digits():
    """Held-out digits, ``float32[360, 1, 8, 8]``."""
    data = load_data("digits")
    return torch.cat([x for x, _ in batches(data.test, 128)])


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id):
    """A folder that the processes of a test run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session", params=["has8_vgg", "has8_resnet", "has8_vgg-if"])
def model(request, trained):
    """Small models that a few passes over the digits have trained."""
    return _warmed(request.param, trained)


@pytest.fixture(scope="session")
def vgg(trained):
    """The smallest of them."""
    return _warmed("has8_vgg", trained)


@pytest.fixture(scope="session")
def resnet(trained):
    """One with residual blocks and downsampling."""
    return _warmed("has8_resnet", trained)
