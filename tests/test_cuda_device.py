"""The device `cuda`: on a GPU where there is one, else on the stand-in, where test_cuda_standin.py runs this file."""

import re

import numpy as np
import pytest
from PIL import Image

import imgrec_engine as ie
from imgrec_engine import checkpoint, cuda, device, info, kernels, models, nn, optim, random
from imgrec_engine import functional as F
from imgrec_engine.cli import main
from imgrec_engine.errors import DeviceError, OutOfMemoryError, ShapeError
from imgrec_engine.train import Trainer, prefetch

if "cuda" not in device.names():
    pytest.skip("there is neither a GPU nor its stand-in", allow_module_level=True)


@pytest.fixture
def cupy():
    return cuda.namespace()


@pytest.fixture
def second():
    try:
        return device.check("cuda:1")
    except DeviceError:
        pytest.skip("there is only one GPU")


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_tensors_are_made_on_the_gpu_and_shown_from_the_host():
    made = [
        ie.tensor([1.0], device="cuda"),
        ie.zeros(2, device="cuda:0"),
        ie.full((), 3, device="cuda"),
        ie.arange(3, device="cuda"),
        ie.randn(2, dtype="bfloat16", device="cuda"),
        ie.ones(3).to("cuda"),
    ]
    assert {x.device for x in made} == {"cuda"}
    assert repr(ie.ones(2, device="cuda")) == "tensor([1., 1.], dtype=float32, device='cuda')"
    x = ie.ones(3, device="cuda")
    x.numpy()[0] = 5  # a copy
    assert x.tolist() == [1, 1, 1]
    assert (x.sum().item(), float(x[0]), 1.0 in x, [float(part) for part in x]) == (3, 1, True, [1, 1, 1])


def test_every_dtype_makes_the_round_trip():
    for dtype in ie.dtypes.SUPPORTED:
        x = ie.tensor(np.array([[0, 1], [1, 0]]), dtype)
        assert x.to("cuda").to("cpu").numpy().tobytes() == x.numpy().tobytes()
        assert x.to("cuda").T.to("cpu").tolist() == x.T.tolist()


def test_random_numbers_are_those_of_the_cpu():
    drawn = []
    for places in (("cpu",) * 3, ("cuda",) * 3, ("cpu", "cuda", "cpu")):
        ie.manual_seed(3)
        drawn.append([ie.randn(7, device=name).numpy().tobytes() for name in places])
        drawn[-1].append(F.dropout(ie.ones(50, device=places[1]), 0.5).numpy().tobytes())
        assert random.get_state() == (3, 4)
    assert drawn[0] == drawn[1] == drawn[2]


def test_writes_in_place_take_values_from_the_host_and_from_gpus():
    x = ie.zeros((2, 3), device="cuda")
    x[0] = ie.tensor([1.0, 2.0, 3.0])
    x[1, :2] = np.array([4, 5])
    x[1, 2] = 6
    x[:, 0] = ie.tensor([7.0, 8.0], device="cuda")
    assert x.tolist() == [[7, 2, 3], [8, 5, 6]]
    assert x.T.copy_(ie.tensor([[1.0], [2.0], [3.0]])).tolist() == [[1, 1], [2, 2], [3, 3]]
    assert ie.zeros((2, 3)).copy_(x).tolist() == x.tolist()
    with pytest.raises(ShapeError, match="copy_"):
        x.copy_(ie.ones(4))
    with pytest.raises(ValueError, match="read-only"):
        ie.ones((1, 3), device="cuda").expand(2, 3).fill_(1)


def test_indices_may_lie_on_either_side_and_are_checked():
    x = ie.arange(12, device="cuda").reshape(3, 4)
    on_host = ie.arange(12).reshape(3, 4)
    for index in ([0, 2], ie.tensor([-1, 0]), (slice(1, None), ie.tensor([3, 3], device="cuda")), (..., [1, -4])):
        assert x[index].tolist() == on_host[index].tolist()
    assert x[x > 8].tolist() == [9, 10, 11]
    assert on_host[ie.tensor([2], device="cuda")].tolist() == [[8, 9, 10, 11]]
    for wrong in ([0, 3], (slice(None), [-5]), (..., None, [4])):
        with pytest.raises(IndexError, match=r"getitem: .*index (3|-5|4) is out of bounds for axis"):
            x[wrong].numpy()


def test_gradients_of_repeated_indices_add_up_in_a_fixed_order():
    positions = np.random.default_rng(0).integers(0, 5, 200)
    weights = np.random.default_rng(1).standard_normal((200, 3))
    gradients = []
    for name in ("cpu", "cuda", "cuda"):
        table = ie.zeros((5, 3), device=name, requires_grad=True)
        (F.embedding(ie.tensor(positions, device=name), table) * ie.tensor(weights, "float32", name)).sum().backward()
        gradients.append(table.grad.numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-6)
    np.testing.assert_array_equal(gradients[1], gradients[2])


def test_devices_do_not_mix():
    with pytest.raises(DeviceError, match=r"add: x on cuda, y on cpu; expected all on one device: y.to\('cuda'\)"):
        ie.ones(2, device="cuda") + ie.ones(2)
    with pytest.raises(DeviceError, match="the gradient is on cpu and the tensor on cuda"):
        (ie.ones(2, device="cuda", requires_grad=True) * 2).backward(ie.ones(2))


def test_kernels_refuse_arrays_of_the_host():
    x = ie.ones(4, device="cuda")._array
    module, context = kernels.of(x)
    with pytest.raises(
        TypeError, match=r"an array of NumPy was given, but the kernels of this module work on .* a GPU"
    ):
        module.activation_forward(context, x, np.ones(4, np.float32), "relu")
    host_module, host_context = kernels.load("cpu")
    with pytest.raises(TypeError):
        host_module.activation_forward(host_context, np.ones(4, np.float32), x, "relu")


def test_lengths_stay_on_the_host():
    layer = nn.LSTM(4, 5).to("cuda")
    x = ie.randn(2, 3, 4, device="cuda")
    output, _ = layer(x, lengths=ie.tensor([3, 1], device="cuda"))
    assert output.device == "cuda"
    np.testing.assert_array_equal(output.numpy()[1, 1:], 0)


# --- matrix products --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 3, 4), (5, 4, 2)),
        ((5, 1, 4), (4, 1)),
        ((2, 3, 4, 5), (3, 5, 1)),
        ((3, 0), (0, 2)),
        ((0, 3), (3, 2)),
        ((7,), (7, 2)),
    ],
)
def test_products_of_all_layouts_are_those_of_the_cpu(dtype, a, b):
    generator = np.random.default_rng(0)
    x, y = (ie.tensor(generator.standard_normal(shape), dtype) for shape in (a, b))
    tolerance = {"float64": 1e-12, "float32": 1e-5}.get(dtype, 2e-2)
    for flip_x in (False, True):
        for flip_y in (False, True):
            operands = []
            for tensor, flip in ((x, flip_x), (y, flip_y)):
                moved = tensor.to("cuda")
                operands.append(ie.Tensor(cuda.namespace().ascontiguousarray(moved._array.T).T) if flip else moved)
            assert operands[0].shape == x.shape
            result = (operands[0] @ operands[1]).to("cpu", "float64").numpy()
            np.testing.assert_allclose(result, (x @ y).to("float64").numpy(), rtol=tolerance, atol=tolerance)


def test_products_are_rounded_to_tf32_where_that_is_allowed():
    x = ie.randn(16, 64, device="cuda")
    exact = (x @ x.T).numpy()
    ie.set_float32_matmul_precision("high")
    try:
        rounded = (x @ x.T).numpy()
        assert kernels.of(x._array)[1].allow_tf32
    finally:
        ie.set_float32_matmul_precision("highest")
    assert 0 < np.abs(rounded - exact).max() < 0.1
    np.testing.assert_array_equal((x @ x.T).numpy(), exact)


# --- GPUs and streams -------------------------------------------------------------------------------------------------


def test_contexts_name_the_gpu_and_its_current_stream(cupy):
    x = ie.ones(2, device="cuda")._array
    _, context = kernels.of(x)
    assert (context.device, context.stream) == (0, cupy.cuda.get_current_stream().ptr)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        _, context = kernels.of(x)
        assert (context.device, context.stream) == (0, stream.ptr)
        assert stream.ptr != 0


def test_a_second_gpu_works_while_the_first_is_current(second, cupy):
    def step(name):
        ie.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).to(name)
        optimizer = optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(ie.rand(8, 3, device=name)), ie.tensor(np.arange(8) % 2, device=name)).backward()
            optim.clip_grad_norm_(model.parameters(), 0.1)
            optim.clip_grad_value_(model.parameters(), 0.05)
            optimizer.step()
        assert {x.device for x in (*model.parameters(), *model.buffers())} == {name}
        return [x.numpy() for x in (*model.parameters(), *model.buffers())]

    before = cupy.cuda.runtime.getDevice()
    for one, other in zip(step("cpu"), step(second), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
    assert cupy.cuda.runtime.getDevice() == before
    assert kernels.of(ie.ones(1, device=second)._array)[1].device == 1


def test_tensors_given_by_name_get_their_gradients_on_a_second_gpu(second):
    x, weight, bias = (ie.ones(shape, device=second).requires_grad_() for shape in [(2, 3), (4, 3), (4,)])
    F.linear(x, weight=weight, bias=bias).sum().backward()
    assert [leaf.grad.shape for leaf in (x, weight, bias)] == [(2, 3), (4, 3), (4,)]


def test_mixed_precision_on_a_second_gpu(second):
    layer = nn.Linear(3, 2).to(second)
    optimizer, scaler = optim.SGD(layer.parameters(), lr=0.5), optim.GradScaler(8.0)
    before = layer.bias.numpy().copy()
    for factor in (1.0, float("inf")):
        optimizer.zero_grad()
        with ie.autocast("float16"):
            y = layer(ie.ones((1, 3), device=second))
            loss = y.sum() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert (y.dtype, y.device, layer.weight.grad.dtype) == ("float16", second, "float32")
    assert layer.bias.numpy().tolist() == (before - 0.5).tolist()
    assert scaler.get_scale() == 4.0


def test_gradients_cross_gpus(second):
    x = ie.tensor([[1.0, 2.0], [3.0, 4.0]], device=second, requires_grad=True)
    y = (x.T * 2).to("cuda")
    (y * ie.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda") + x.to("cuda")).sum().backward()
    assert (y.device, x.grad.device, x.grad.tolist()) == ("cuda", second, [[3, 7], [5, 9]])
    with pytest.raises(DeviceError, match=r"add: x on cuda:1, y on cuda; .*: y.to\('cuda:1'\)"):
        x + y
    other = ie.ones(2, device="cuda", requires_grad=True)
    other.sum().backward()
    with pytest.raises(DeviceError, match="clip_grad_norm_: gradients are on cuda and cuda:1, expected all on one"):
        optim.clip_grad_norm_([x, other], 1.0)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*dict(models.summaries())} - {"resnet18"}))  # resnet20 is of its kind
def test_models_of_every_family_train_as_on_the_cpu(name):
    shape = (3, 8, 8, 1) if name.startswith("video") else (8, 8, 1)
    images = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
    losses = {}
    for place in ("cpu", "cuda"):
        ie.manual_seed(0)
        model = models.create(name, num_classes=3, in_channels=1, image_size=8).to(place)
        make = optim.SGD if "rnn" in name else optim.AdamW
        settings = {"momentum": 0.9} if make is optim.SGD else {}
        trainer = Trainer(model, make(model.parameters(), lr=1e-3, **settings), max_grad_norm=1.0)
        labels = np.arange(4).reshape(-1, 1) % 3 if models.task(name) == "transcription" else np.arange(4) % 3
        batch = ie.tensor(images), ie.tensor(labels)
        losses[place] = [trainer.train_batch(*batch).item() for _ in range(2)]
        losses[place].append(trainer.evaluate([batch]).loss)
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3)


def test_batches_arrive_in_order_and_whole():
    generator = np.random.default_rng(0)
    sizes = [4, 4, 4, 9, 2, 4]
    host = [(ie.tensor(generator.random((n, 3, 3))), ie.tensor(np.arange(n))) for n in sizes]
    arrived = list(prefetch(iter(host), "cuda"))
    assert {x.device for batch in arrived for x in batch} == {"cuda"}
    for ours, theirs in zip(arrived, host, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert list(prefetch([], "cuda")) == []


def test_batches_that_nobody_takes_do_no_harm():
    generator = np.random.default_rng(0)
    batches = prefetch(((ie.tensor(generator.random((n, 5))),) for n in range(1, 9)), "cuda")
    (first,) = next(batches)
    expected = first.tolist()
    batches.close()
    filled = [ie.zeros((n, 5), dtype="float64", device="cuda") for n in range(1, 9)]
    assert all(x.sum().item() == 0 for x in filled)
    assert first.tolist() == expected


def test_training_continues_from_a_checkpoint(tmp_path):
    def trainer(seed):
        ie.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.Dropout(0.5)).to("cuda")
        return Trainer(model, optim.AdamW(model.parameters(), lr=0.1))

    images, labels = ie.tensor(np.random.default_rng(0).random((6, 3, 3)), "float32"), ie.tensor(np.arange(6) % 3)
    one = trainer(0)
    one.train_batch(images, labels)
    tensors, settings = one.state_dict()
    checkpoint.save(tmp_path / "x.safetensors", tensors, settings)
    expected = [one.train_batch(images, labels).item() for _ in range(2)]
    other = trainer(1)
    other.load_state_dict(*checkpoint.load(tmp_path / "x.safetensors"))
    assert [other.train_batch(images, labels).item() for _ in range(2)] == expected


def test_the_command_line_trains_and_evaluates(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            image = np.full((8, 8, 3), 200 * (name == "a") + number, np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}.png")
    quick = ["--epochs", "3", "--image-size", "8", "--batch-size", "8", "--augment", "none"]
    out, captured = tmp_path / "run", tmp_path / "captured"
    train = ["train", str(tmp_path / "photos"), "--device=cuda", *quick]
    assert [main([*train, "--out", str(out)]), main([*train, "--out", str(captured), "--capture"])] == [0, 0]
    assert (out / "last.safetensors").read_bytes() == (captured / "last.safetensors").read_bytes()
    assert main(["evaluate", str(out), "--device", "cuda"]) == 0
    assert "accuracy" in capsys.readouterr().out


# --- memory -----------------------------------------------------------------------------------------------------------


def test_the_next_step_works_after_memory_ran_out():
    x = ie.ones((64, 64), device="cuda", requires_grad=True)
    module, _ = kernels.of(x._array)
    module.pool_limit(module.pool_used() + 4 * x._array.nbytes)
    try:
        with pytest.raises(OutOfMemoryError, match=r"matmul\(float32\[4096, 1\], .*cuda: Out of memory"):
            x.reshape(-1, 1) @ x.reshape(1, -1)
        with pytest.raises(OutOfMemoryError):
            ie.zeros((1024, 1024), device="cuda")
        y = (x * 2).sum()
        y.backward()
        assert (y.item(), x.grad.sum().item()) == (2 * 64 * 64, 2 * 64 * 64)
        y = x.exp()
        keep = [ie.zeros((64, 64), device="cuda")]
        with pytest.raises(OutOfMemoryError, match="backward of exp"):
            y.backward(ie.ones((1, 1), device="cuda").expand(64, 64))
        del keep, y
        x.grad = None
        (x * 3).sum().backward()
        assert x.grad.sum().item() == 3 * 64 * 64
    finally:
        module.pool_limit(0)


def test_info_tells_of_the_gpu():
    assert re.search(r"device cuda    .* SMs, \d+ KB shared memory a block\), the first of \d+; kernels", info.report())
