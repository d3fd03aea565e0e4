import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrec_engine.metrics import Evaluation, accuracy, calibration_error, confusion_matrix, roc_auc, roc_curve

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])


def test_accuracy_and_top_k():
    labels = np.array([1, 0, 1, 2])
    assert accuracy(SCORES, labels) == 0.5
    assert accuracy(SCORES, labels, top=2) == 0.75
    assert accuracy(SCORES, labels, top=3) == 1.0
    assert np.isnan(accuracy(SCORES[:0], labels[:0]))


def test_confusion_counts_rows_by_truth():
    counts = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    np.testing.assert_array_equal(counts, [[1, 0, 0], [1, 1, 1], [0, 0, 0]])


def evaluation(confusion, loss=0.25):
    """One whose predictions have these counts, each with probability 0.9."""
    confusion = np.asarray(confusion)
    labels, predictions = (np.repeat(places.ravel(), confusion.ravel()) for places in np.indices(confusion.shape))
    probabilities = np.full((len(labels), len(confusion)), 0.1 / (len(confusion) - 1))
    probabilities[np.arange(len(labels)), predictions] = 0.9
    return Evaluation(loss, probabilities, labels)


def test_evaluation_per_class():
    measured = evaluation([[3, 1], [2, 2]])
    np.testing.assert_array_equal(measured.confusion, [[3, 1], [2, 2]])
    assert measured.accuracy == 0.625
    np.testing.assert_allclose(measured.recall(), [0.75, 0.5])
    np.testing.assert_allclose(measured.precision(), [0.6, 2 / 3])
    np.testing.assert_allclose(measured.f1(), [2 / 3, 4 / 7])
    absent = evaluation([[3, 0], [0, 0]])
    for rates in (absent.recall(), absent.precision(), absent.f1()):
        np.testing.assert_array_equal(rates, [1, np.nan])


def test_report_names_every_class_and_count():
    text = evaluation([[3, 1], [2, 2]]).report(("cat", "elephant"))
    assert "loss 0.2500, accuracy 0.6250, macro f1 0.6190, calibration error 0.2750, roc auc 0.6250, 8 images" in text
    for word in ("cat", "elephant", "0.750", "0.500"):
        assert word in text
    with pytest.raises(ValueError, match="argument"):
        evaluation([[3, 1], [2, 2]]).report(("only one",))


def test_the_summary_suits_the_number_of_classes():
    assert "top5_accuracy" not in evaluation(np.eye(5, dtype=int)).summary()
    assert evaluation(np.eye(6, dtype=int)).summary()["top5_accuracy"] == 1
    nothing = Evaluation(0.0, np.zeros((0, 2)), np.zeros(0, dtype=int)).summary()
    assert all(np.isnan(value) for name, value in nothing.items() if name != "loss")


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_the_area_counts_pairs_in_the_right_order(items):
    scores, positive = np.array([score for score, _ in items]) / 8, np.array([yes for _, yes in items])
    gaps = np.sign(scores[positive][:, None] - scores[~positive][None])
    if not gaps.size:
        assert np.isnan(roc_auc(scores, positive))
        return
    assert roc_auc(scores, positive) == pytest.approx(((gaps + 1) / 2).mean(), abs=1e-12)
    false, true = roc_curve(scores, positive)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()


def test_scikit_learn_finds_the_same_area():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.Generator(np.random.Philox(1))
    positive = generator.random(500) < 0.3
    scores = np.round(generator.standard_normal(500) + positive, 1)
    assert roc_auc(scores, positive) == pytest.approx(sklearn_metrics.roc_auc_score(positive, scores), abs=1e-12)


def test_calibration_error_is_zero_where_confidence_is_deserved():
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-12)
    assert calibration_error(probabilities, np.array([1, 1, 1, 1])) == pytest.approx(0.75)
    two_bins = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(two_bins, np.array([0, 1, 0, 1])) == pytest.approx((0.4 + 0.1) / 2)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
    assert np.isnan(calibration_error(np.zeros((0, 2)), np.zeros(0, dtype=int)))
