"""`ie.capture` with loss scaling: skipped steps, growth and backoff give the same bits in a graph as without."""

import pytest
from captured_training import OPTIMIZERS, ScaledTraining

import imgrec_engine as ie
from imgrec_engine import device, optim

needs_cuda = pytest.mark.skipif("cuda" not in device.names(), reason="there is neither a GPU nor its stand-in")
SCALED = {**OPTIMIZERS, "plain sgd": lambda parameters: optim.SGD(parameters, lr=0.05)}


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("name", SCALED)
def test_captured_training_with_loss_scaling_is_bitwise_that_of_ordinary_calls(device, name, max_norm):
    overflows = {1, 6, 7, 15, 23}  # before the graph is there, and in its replays
    ordinary, captured = (ScaledTraining(device, SCALED[name], capture, max_norm) for capture in (False, True))
    ie.manual_seed(1)
    expected = ordinary.train(24, overflows), ordinary.state(), ordinary.scaler.state_dict()
    ie.manual_seed(1)
    assert (captured.train(24, overflows), captured.state(), captured.scaler.state_dict()) == expected
    assert captured.runs == (3 if device == "cuda" else 24)
    curve = expected[0]
    for number in range(1, 24):
        unchanged = curve[number][2] == curve[number - 1][2]
        assert unchanged == (number in overflows)
        assert (curve[number][1] < curve[number - 1][1]) == (number in overflows)
    assert curve[14][1] > curve[10][1] == curve[7][1]  # it has grown
    steps = {int(state["step"]) for state in ordinary.optimizer.state.values() if "step" in state}
    assert steps <= {24 - len(overflows)}


@needs_cuda
def test_a_scaler_that_is_set_anew_is_captured_anew():
    curves, runs = [], []
    for capture in (False, True):
        training = ScaledTraining("cuda", SCALED["adamw"], capture)
        curve = training.train(5, {4})
        training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 64.0, "growth_interval": 2})
        curve += training.train(6, {})
        curves.append(curve)
        runs.append(training.runs)
    assert curves[0] == curves[1]
    assert curves[0][-1][1] == 512.0
    assert runs == [11, 4]
