"""A convolution and batch normalisation folded into one: equal but for rounding, and never out of date."""

import operator

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import nn
from imgrec_engine.nn.conv_norm import conv_norm


class Pair:
    """A convolution and a normalisation with statistics, in evaluation mode."""

    def __init__(self, bias=True, **options):
        ie.manual_seed(5)
        self.conv = nn.Conv2d(4, 6, 3, bias=bias, **options)
        self.norm = nn.BatchNorm2d(6, eps=1e-3).eval()
        self.x = ie.randn(2, 9, 9, 4)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            tensor.detach().copy_(ie.randn(6))
        self.norm.running_var.copy_(ie.randn(6) ** 2 + 0.1)

    def __call__(self, activation=None):
        return conv_norm(self.x, self.conv, self.norm, activation)

    def kernels(self, activation=None):
        with ie.profile() as p:
            y = self(activation)
        return [row.name for row in p.rows("op") if row.name in ("conv2d", "batch_norm")], y

    def check(self, activation=None):
        expected = self.norm(self.conv(self.x), activation=activation)
        np.testing.assert_allclose(self(activation).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2, "padding": 1}, {"groups": 2}])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@ie.no_grad()
def test_one_kernel_gives_the_result_of_two(options, activation):
    pair = Pair(**options)
    assert pair.kernels(activation)[0] == ["conv2d"]
    pair.check(activation)


TENSORS = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]


@pytest.mark.parametrize("name", TENSORS)
@ie.no_grad()
def test_every_write_is_seen(name):
    pair = Pair()
    before = pair().tolist()
    tensor = operator.attrgetter(name)(pair)
    tensor.copy_(tensor * 1.5 + 0.25)
    pair.check()
    assert abs(pair() - ie.tensor(before)).max() > 1e-2


@ie.no_grad()
def test_a_new_epsilon_and_a_moved_module_are_seen():
    pair = Pair()
    pair()
    pair.norm.eps = 0.5
    pair.check()
    pair.conv.to("float64"), pair.norm.to("float64")
    pair.x = pair.x.to("float64")
    assert pair().dtype == np.float64
    pair.check()


def as_trained(pair):
    pair.norm.train()


def as_hooked(pair):
    pair.conv.register_forward_hook(lambda module, args, output: None)


def as_handed_out(pair):
    pair.norm.running_mean.numpy()


def as_halves(pair):
    pair.conv.to("float16"), pair.norm.to("float16")
    pair.x = pair.x.to("float16")


@pytest.mark.parametrize("change", [as_trained, as_hooked, as_handed_out, as_halves])
@ie.no_grad()
def test_elsewhere_the_modules_run_themselves(change):
    pair = Pair()
    pair()
    change(pair)
    assert sorted(pair.kernels()[0]) == ["batch_norm", "conv2d"]


def test_what_is_recorded_or_cast_is_not_folded():
    pair = Pair()
    assert sorted(pair.kernels()[0]) == ["batch_norm", "conv2d"]
    pair().sum().backward()
    assert pair.norm.weight.grad is not None
    with ie.no_grad(), ie.autocast("bfloat16"):
        assert sorted(pair.kernels()[0]) == ["batch_norm", "conv2d"]


@ie.no_grad()
def test_memory_that_was_handed_out_may_change_unseen():
    pair = Pair()
    pair()
    pair.conv.weight.numpy()[...] = 0.5
    pair.check()
