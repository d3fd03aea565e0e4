"""`imgrec inspect`: counts against numbers worked out by hand, and how they are shown."""

import html.parser
import importlib.util
import math
import os
import sys
from pathlib import Path

import pytest

from imgrec_engine import kernels
from imgrec_engine.cli import main
from imgrec_engine.errors import DeviceError, DTypeError, ImgrecError, ShapeError
from imgrec_engine.inspection import OPS, Inspection, KernelProfile, LineCounters, as_page, as_text, inspect_op, source
from imgrec_engine.inspection.measure import arguments
from imgrec_engine.simulator import SimArray

ACTIVATION = "csrc/cuda/activation.cu"
SOURCE = (Path(__file__).parents[1] / ACTIVATION).read_text().splitlines()
LOAD, STORE, KERNEL = (
    next(n for n, line in enumerate(SOURCE, 1) if part in line)
    for part in ("load_pack<T, width>(x + i)", "store_pack(y + i, pack)", "activation_forward_kernel(T* y")
)
needs_checked = pytest.mark.skipif(
    importlib.util.find_spec("imgrec_engine._sim_checked") is None, reason="`make checked` builds what counts"
)


@pytest.fixture
def fresh_simulator(monkeypatch):
    """As in a process that has not used the simulator yet: inspect chooses the module with checkers."""
    before = kernels._OF_TYPE.pop(SimArray, None)
    monkeypatch.setenv("IMGREC_SIM_CHECK", "banks,coalescing")
    yield
    kernels._OF_TYPE.pop(SimArray, None)
    if before:
        kernels._OF_TYPE[SimArray] = before


def one_kernel(lines, **changes):
    counted = {
        "kernel": "(cuda::activation_forward_kernel<T>)",
        "function": (ACTIVATION, KERNEL),
        "launches": 1,
        "blocks": 1,
        "threads_per_block": 256,
        "static_shared_bytes": 0,
        "dynamic_shared_bytes": 0,
        "global_bytes_read": 4096,
        "global_bytes_written": 4096,
        "lines": [{"file": file, "line": line, **counters} for file, line, counters in lines],
    }
    return KernelProfile.of({**counted, **changes})


def inspection_of(*kernel_profiles):
    return Inspection(
        "relu", {"x": "float32 (1024,)"}, ("float32 (1024,)",), {}, 8192, 1024, "formula", kernel_profiles
    )


# A load that is as good as can be, and a store with every second sector wasted.
READ = {"executions": 8, "global_requests": 8, "global_sectors": 128, "global_minimum_sectors": 128}
WRITTEN = {**READ, "global_sectors": 256}


def test_factors_follow_from_counts():
    line = LineCounters(**WRITTEN, shared_requests=8, shared_wavefronts=64, shared_minimum_wavefronts=8)
    assert line.sectors_per_request == 32
    assert line.least_sectors_per_request == 16
    assert line.sector_factor == 2
    assert line.bank_factor == 8
    assert math.isnan(LineCounters(executions=1).bank_factor)
    assert one_kernel([(ACTIVATION, LOAD, READ), (ACTIVATION, STORE, WRITTEN)]).moved_bytes == 32 * 384


def test_text_puts_counts_beside_the_source():
    shown = as_text(inspection_of(one_kernel([(ACTIVATION, LOAD, READ), (ACTIVATION, STORE, WRITTEN)]))).splitlines()
    assert shown[0] == "relu(x=float32 (1024,)) -> float32 (1024,) on sim"
    (load,) = [line for line in shown if "load_pack<T, width>(x + i)" in line]
    (store,) = [line for line in shown if "store_pack(y + i, pack)" in line]
    assert load.split()[:5] == [str(LOAD), "8", "8", "16.0", "16.0"]
    assert store.split()[:5] == [str(STORE), "8", "8", "32.0", "16.0"]
    assert any("moved / minimum" in line and "1.50x" in line for line in shown)
    assert any(line.endswith("template <class T>") for line in shown), "the whole function is shown"
    assert not any("activation_backward_kernel" in line for line in shown), "and no other one"


def test_the_kernel_itself_comes_first_even_without_counts():
    shown = as_text(inspection_of(one_kernel([("csrc/cuda/arch/pack.h", 30, READ), ("csrc/cuda/rows.h", 20, READ)])))
    files = [line for line in shown.splitlines() if line.startswith("csrc/")]
    assert files == [ACTIVATION, "csrc/cuda/rows.h", "csrc/cuda/arch/pack.h"]
    assert "__global__" in shown.partition("csrc/cuda/rows.h")[0]


def test_lines_without_source_are_still_shown():
    gone = "csrc/cuda/gone.cu"
    shown = as_text(inspection_of(one_kernel([(gone, 7, READ)], function=(gone, 5))))
    assert gone in shown
    assert [line.split() for line in shown.splitlines()][-2:] == [["5"], ["7", "8", "8", "16.0", "16.0"]]


def test_the_reader_is_told_of_sources_that_are_absent_or_newer(tmp_path, monkeypatch):
    module = tmp_path / "module.so"
    module.touch()
    assert source.notes(str(module)) == ()
    os.utime(module, (0, 0))
    (note,) = source.notes(str(module))
    assert "`make checked`" in note
    monkeypatch.setattr(source, "_CHECKOUT", tmp_path)
    (note,) = source.notes(str(module))
    assert "installed package" in note


class Reader(html.parser.HTMLParser):
    """Checks that elements nest, and keeps tags and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained_and_colours_what_is_wasted():
    content = as_page(inspection_of(one_kernel([(ACTIVATION, LOAD, READ), (ACTIVATION, STORE, WRITTEN)])))
    reader = Reader()
    reader.feed(content.removeprefix("<!doctype html>"))
    assert reader.open == []
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img"}
    assert "http" not in content
    assert "prefers-color-scheme: dark" in content
    assert "template <class T>" in reader.text, "the source is escaped"
    wasteful = [attributes for tag, attributes in reader.tags if tag == "td" and attributes.get("class") == "waste"]
    assert len(wasteful) == 1
    assert wasteful[0]["style"] == "--part:0.32"


def shapes_of(op, given=(), **options):
    return {name: array.shape for name, array in arguments(op, given, "float32", options).items()}


def test_shapes_follow_from_those_given():
    assert shapes_of("conv2d", {"x": (1, 8, 8, 6)}, groups=3) == {
        "x": (1, 8, 8, 6),
        "weight": (64, 3, 3, 2),
        "bias": (64,),
    }
    assert shapes_of("conv2d", [(1, 8, 8, 4), (5, 1, 1, 4)])["bias"] == (5,)
    assert shapes_of("layer_norm", {"x": (7, 12)}) == {"x": (7, 12), "weight": (12,), "bias": (12,)}
    assert shapes_of("lstm", {"weight_hh": (64, 16)})["weight_ih"] == (64, 32)


@pytest.mark.parametrize("name", OPS)
def test_every_op_takes_its_default_arguments(name):
    """On the CPU, where they are looked at in the same way."""
    import imgrec_engine as ie

    op = OPS[name]
    inputs = {key: ie.tensor(array) for key, array in arguments(name, (), "float32", op.options).items()}
    result = op.function(**inputs, **op.options)
    output = result[0] if isinstance(result, tuple) else result
    assert op.flop({key: value.shape for key, value in inputs.items()}, output.shape, op.options) > 0


@pytest.mark.parametrize(
    ("expected", "message", "words"),
    [
        (ImgrecError, "there is no op 'conv3d'; there are relu", ["conv3d"]),
        (ShapeError, "'8x8' is no shape", ["relu", "--shape", "8x8"]),
        (ImgrecError, "'w' is none of its tensors; expected shapes of x, weight, bias", ["conv2d", "--shape", "w=3,3"]),
        (ImgrecError, "2 shapes were given; expected shapes of x", ["relu", "--shape", "3", "4"]),
        (ImgrecError, "'padding' is not of the form name=value", ["conv2d", "--option", "padding"]),
        (DTypeError, "dtype is int32, expected float32", ["relu", "--dtype", "int32"]),
    ],
)
def test_what_cannot_be_inspected_is_said_in_one_line(expected, message, words, capsys):
    assert main(["inspect", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_the_checked_module_the_command_that_builds_it_is_named(fresh_simulator, monkeypatch):
    monkeypatch.setitem(sys.modules, "imgrec_engine._sim_checked", None)
    with pytest.raises(DeviceError, match="`make checked`"):
        inspect_op("relu")


@needs_checked
def test_relu_moves_each_byte_once(fresh_simulator):
    """1024 floats are 256 packs of 16 bytes: one block of 8 warps, each of which moves 16 sectors a request."""
    found = inspect_op("relu", [(1024,)])
    (kernel,) = found.kernels
    assert (kernel.launches, kernel.blocks, kernel.threads_per_block) == (1, 1, 256)
    assert (kernel.global_bytes_read, kernel.global_bytes_written) == (4096, 4096)
    assert found.moved_bytes == found.minimum_bytes == 2 * 4096
    assert found.flop == 1024
    for line in (LOAD, STORE):
        counters = kernel.lines[ACTIVATION, line]
        assert (counters.executions, counters.global_requests) == (8, 8)
        assert counters.global_sectors == counters.global_minimum_sectors == 128
    assert sum(line.barriers for line in kernel.lines.values()) == 0


@needs_checked
@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("bfloat16", 2)])
def test_a_convolution_writes_its_output_once(fresh_simulator, dtype, item):
    """On tensor cores asynchronous copies read and write; where a tap lies outside of the image they only write."""
    found = inspect_op("conv2d", {"x": (1, 6, 6, 16), "weight": (8, 3, 3, 16)}, dtype)
    assert found.flop == 2 * (6 * 6 * 8) * (3 * 3 * 16)
    assert found.minimum_bytes == item * (6 * 6 * 16 + 8 * 3 * 3 * 16 + 8 + 6 * 6 * 8)
    (kernel,) = found.kernels
    assert kernel.global_bytes_written == item * 6 * 6 * 8
    assert found.moved_bytes >= found.minimum_bytes
    assert sum(line.barriers for line in kernel.lines.values()) > 0
    assert {Path(file).parts[2] for file, _ in kernel.lines} <= {"conv2d", "gemm", "arch"}, "no other kernel's lines"
    file, line = kernel.function
    assert "forward_kernel(" in (Path(__file__).parents[1] / file).read_text().splitlines()[line - 1]


@needs_checked
def test_the_command_prints_text_or_writes_a_page(fresh_simulator, tmp_path, capsys):
    words = ["inspect", "conv2d", "--shape", "x=1,6,6,4", "weight=8,3,3,4", "--dtype", "float16"]
    words += ["--option", "padding=1", "activation=relu"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("conv2d(x=float16 (1, 6, 6, 4), weight=float16 (8, 3, 3, 4), bias=float16 (8,), padding=1")
    assert "csrc/cuda/" in shown
    assert "__syncthreads();" in shown
    assert main([*words, "--html", str(tmp_path / "conv2d.html")]) == 0
    reader = Reader()
    reader.feed((tmp_path / "conv2d.html").read_text().removeprefix("<!doctype html>"))
    assert reader.open == []
