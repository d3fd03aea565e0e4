"""`ie.capture`: a captured step gives the same bits as the step itself, on `cuda` (or its stand-in) from a graph."""

import contextlib

import numpy as np
import pytest
from captured_training import OPTIMIZERS, Training

import imgrec_engine as ie
from imgrec_engine import cuda, device, models, optim
from imgrec_engine import functional as F
from imgrec_engine.errors import CaptureError, DeviceError, ShapeError
from imgrec_engine.train.tasks import task_of

needs_cuda = pytest.mark.skipif("cuda" not in device.names(), reason="there is neither a GPU nor its stand-in")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_captured_training_is_bitwise_that_of_ordinary_calls(device, name):
    ordinary = Training(device, OPTIMIZERS[name], capture=False, max_norm=0.5)
    expected = ordinary.train(20), ordinary.state()
    captured = Training(device, OPTIMIZERS[name], capture=True, max_norm=0.5)
    assert (captured.train(20), captured.state()) == expected
    assert len(set(expected[0])) == 20
    assert captured.runs == (3 if device == "cuda" else 20)


def test_each_shape_has_a_graph_of_its_own(device):
    ordinary, captured = (Training(device, OPTIMIZERS["adamw"], capture) for capture in (False, True))
    ie.manual_seed(1)
    expected = ordinary.train(15, sizes=(6, 6, 4)), ordinary.state()
    ie.manual_seed(1)
    assert (captured.train(15, sizes=(6, 6, 4)), captured.state()) == expected
    assert captured.runs == (6 if device == "cuda" else 15)


@needs_cuda
@pytest.mark.parametrize("name", sorted({*dict(models.summaries())} - {"resnet18"}))  # resnet20 is of its kind
def test_models_of_every_family_can_be_captured(name):
    shape = (3, 8, 8, 1) if name.startswith("video") else (8, 8, 1)
    batches = [ie.tensor(np.random.default_rng(i).random((4, *shape)), "float32", device="cuda") for i in range(4)]
    classes = np.arange(4) % 3
    labels = ie.tensor(classes[:, None] if models.task(name) == "transcription" else classes, device="cuda")
    curves = []
    for wrap in (lambda step: step, ie.capture):
        ie.manual_seed(0)
        model = models.create(name, num_classes=3, in_channels=1, image_size=8).to("cuda")
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)

        @wrap
        def step(images, labels, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = task_of(model).loss(model(images), labels)
            loss.backward()
            optimizer.step()
            return loss

        curves.append([step(images, labels).item() for images in batches])
    assert curves[0] == curves[1]


@needs_cuda
def test_gradients_of_repeated_indices_can_be_captured():
    table = ie.zeros((5, 3), device="cuda", requires_grad=True)

    @ie.capture
    def step(indices):
        table.grad = None
        (F.embedding(indices, table).sum() + table[indices].sum() * 2).backward()

    for first in range(5):
        step(ie.tensor([first, 4, first], device="cuda"))
        expected = np.zeros((5, 3))
        np.add.at(expected, [first, 4, first], 3)
        np.testing.assert_array_equal(table.grad.numpy(), expected)
        table.grad = None


@needs_cuda
def test_random_numbers_drawn_between_replays_follow_on():
    curves = []
    for capture in (False, True):
        training = Training("cuda", OPTIMIZERS["sgd"], capture)
        curve = []
        for number in range(8):
            curve.append(training.step(*training.batch(number)).item())
            curve.append(ie.rand(2, device="cpu" if number % 2 else "cuda").tolist())
            if number == 5:
                ie.manual_seed(9)
        curves.append(curve)
    assert curves[0] == curves[1]


@needs_cuda
def test_evaluation_between_replays_sees_the_weights():
    curves = []
    for capture in (False, True):
        training = Training("cuda", OPTIMIZERS["adam"], capture)
        curve = []
        for number in range(6):
            training.step(*training.batch(number))
            training.model.eval()
            curve.append(training.model(training.batch(0)[0]).tolist())
            training.model.train()
        curves.append(curve)
    assert curves[0] == curves[1]
    assert curves[1][4] != curves[1][5]


@needs_cuda
def test_weights_that_autocast_keeps_are_cast_again_after_each_replay():
    curves = []
    for capture in (False, True):
        training = Training("cuda", OPTIMIZERS["adam"], capture)
        curve = []
        with ie.autocast("bfloat16"):
            for number in range(6):
                curve.append(training.step(*training.batch(number)).item())
                with ie.no_grad():
                    curve.append(training.model(training.batch(0)[0]).tolist())
        curves.append(curve)
    assert curves[0] == curves[1]


@needs_cuda
def test_steps_that_choose_or_begin_on_the_host_are_refused():
    x = ie.ones(2, device="cuda")
    weight, late = (ie.ones(2, device="cuda", requires_grad=True) for _ in range(2))
    optimizer, scaler, used = optim.Adam([weight, late], lr=0.1), optim.GradScaler(init_scale=8.0), [weight]

    def step(x):
        optimizer.zero_grad()
        scaler.scale(sum((parameter * x).sum() for parameter in used)).backward()
        scaler.step(optimizer)
        scaler.update()

    captured = ie.capture(step)
    captured(x)
    captured(x)
    used.append(late)
    with pytest.raises(CaptureError, match=r"Adam\(.*Adam.step begins the state of a parameter of shape \(2,\)"):
        captured(x)
    step(x)
    assert optimizer.state[late]["step"].item() == 1
    captured(x)
    assert (optimizer.state[late]["step"].item(), optimizer.state[weight]["step"].item()) == (2, 4)


@needs_cuda
def test_what_a_graph_took_for_granted_may_change():
    curves, runs = [], []
    for capture in (False, True):
        training = Training("cuda", OPTIMIZERS["sgd"], capture)
        curve = []
        for number in range(9):
            if number == 5:
                training.optimizer.param_groups[0]["weight_decay"] = 0.5
            if number == 7:
                training.optimizer.load_state_dict(training.optimizer.state_dict())
            curve.append(training.step(*training.batch(number)).item())
        curves.append(curve)
        runs.append(training.runs)
    assert curves[0] == curves[1]
    assert runs == [9, 5]


@needs_cuda
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_schedules_change_momentum_without_a_new_graph(name):
    curves, runs = [], []
    for capture in (False, True):
        training = Training("cuda", OPTIMIZERS[name], capture)
        schedule = optim.OneCycleLR(training.optimizer, max_lr=0.05, total_steps=9)
        curve = []
        for number in range(9):
            curve.append(training.step(*training.batch(number)).item())
            schedule.step()
        curves.append((curve, training.state()))
        runs.append(training.runs)
    assert curves[0] == curves[1]
    assert runs == [9, 3]


@needs_cuda
def test_results_keep_their_structure_and_are_overwritten():
    scale = ie.tensor([1.0, 2.0], device="cuda")

    @ie.capture
    def step(x, power, *, shift=0):
        y = (x * scale) ** power + shift
        return {"y": y, "parts": (y.sum(), "done")}

    results = [step(ie.full((2,), number, device="cuda"), 2, shift=1) for number in range(4)]
    assert results[2] is results[3]
    assert results[3]["y"].tolist() == [10, 37]
    assert results[3]["parts"][1] == "done"
    assert results[0]["y"].tolist() == [1, 1]
    assert step(ie.full((2,), 2, device="cuda"), 3, shift=1)["y"].tolist() == [9, 65]
    scale.fill_(0)  # what the step finds around it is read at each replay
    assert step(ie.full((2,), 5, device="cuda"), 2, shift=1)["y"].tolist() == [1, 1]


def _captured_until_it_fails(step, *args):
    captured = ie.capture(step)
    for _ in range(2):
        captured(*args)
    with pytest.raises(CaptureError) as caught:
        captured(*args)
    return str(caught.value)


@needs_cuda
def test_what_cannot_be_captured_is_named():
    x = ie.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
    table = ie.ones((3, 2), device="cuda", requires_grad=True)

    def look_back(x):
        table.grad = None
        (table.sum() * 2).backward(ie.tensor(1.0).to("cuda"))

    refused = {
        "it asks for values of a tensor (.item()": lambda x: x.sum().item(),
        "it asks for values of a tensor (.item(), .numpy(), float(), if": lambda x: 1 if x.sum() else 0,
        "getitem(float32[2, 2], bool[2, 2]) cannot be recorded: cudaErrorStreamCapture": lambda x: x[x > 2],
        "it copies values of the host to the GPU": lambda x: x + ie.tensor([1.0, 2.0]).to("cuda"),
        "getitem(float32[2, 2], [0, 1]) cannot be recorded: it copies values of the host": lambda x: x[[0, 1]],
    }
    for message, step in refused.items():
        assert message in _captured_until_it_fails(step, x)
    assert "it copies values of the host to the GPU" in _captured_until_it_fails(look_back, x)
    assert table.grad is None
    assert (x + 1).tolist() == [[2, 3], [4, 5]]  # nothing of the failed captures is left
    assert cuda.namespace().cuda.get_current_stream().ptr == 0


@needs_cuda
def test_gradients_from_outside_of_the_step_are_refused():
    weight = ie.ones(2, device="cuda", requires_grad=True)

    @ie.capture
    def accumulate(x):
        (weight * x).sum().backward()

    x = ie.ones(2, device="cuda")
    for _ in range(2):
        accumulate(x)
    with pytest.raises(CaptureError, match=r"from before the step; call optimizer.zero_grad\(\) at the step's"):
        accumulate(x)
    weight.grad = None
    accumulate(x)
    assert weight.grad.tolist() == [1, 1]
    with pytest.raises(CaptureError, match="has a gradient, and had none when the step was captured"):
        accumulate(x)
    weight.grad = None
    accumulate(x * 3)
    assert weight.grad.tolist() == [3, 3]


@needs_cuda
def test_arguments_that_a_graph_cannot_take_are_refused():
    step = ie.capture(lambda x, *rest: x + 1)
    x = ie.ones(2, device="cuda")
    with pytest.raises(TypeError, match="capture: an argument of the step is of type list, expected tensors"):
        step(x, [x])
    given = ie.ones(2, device="cuda", requires_grad=True)
    assert "requires a gradient" in _captured_until_it_fails(lambda x: x + 1, given)
    with contextlib.suppress(DeviceError):
        other = ie.ones(2, device="cuda:1")
        with pytest.raises(DeviceError, match="the step's arguments are on cuda and cuda:1"):
            step(x, other)
    with pytest.raises(ShapeError):
        ie.capture(lambda x, y: x + y)(x, ie.ones(3, device="cuda"))


@needs_cuda
def test_a_graph_runs_on_the_current_stream_and_is_profiled():
    training, again = (Training("cuda", OPTIMIZERS["adamw"], capture) for capture in (True, False))
    ie.manual_seed(2)
    with ie.profile() as p, cuda.namespace().cuda.Stream(non_blocking=True) as stream:
        losses = training.train(6)
        stream.synchronize()
    ie.manual_seed(2)
    assert again.train(6) == losses
    rows = {(row.name, row.phase): row.calls for row in p.rows()}
    assert rows["_step", "graph"] == 4
    assert rows["conv2d", "forward"] == 2


@needs_cuda
def test_memory_of_a_graph_goes_with_it():
    pool = cuda.namespace().get_default_memory_pool()
    training = Training("cuda", OPTIMIZERS["sgd"], capture=True)
    batch = training.batch(0)
    training.step(*batch)
    training.step(*batch)
    training.optimizer.zero_grad()
    before = pool.used_bytes()
    for _ in range(3):
        training.step(*batch)
    inputs = sum(x._array.nbytes for x in batch)
    assert pool.used_bytes() <= before + inputs + 1024  # the rest lies in the graph's own pool
