import numpy as np
import pytest

from imgrec_engine.metrics import Evaluation, accuracy, confusion_matrix

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


def test_evaluation_per_class():
    evaluation = Evaluation(0.5, 0.5, np.array([[3, 1], [2, 2]]))
    np.testing.assert_allclose(evaluation.recall(), [0.75, 0.5])
    np.testing.assert_allclose(evaluation.precision(), [0.6, 2 / 3])
    absent = Evaluation(0.5, 0.5, np.array([[3, 0], [0, 0]]))
    assert np.isnan(absent.recall()[1])
    assert np.isnan(absent.precision()[1])


def test_report_names_every_class_and_count():
    text = Evaluation(0.25, 0.625, np.array([[3, 1], [2, 2]])).report(("cat", "elephant"))
    assert "accuracy 0.6250, loss 0.2500, 8 images" in text
    for word in ("cat", "elephant", "0.750", "0.500"):
        assert word in text
    with pytest.raises(ValueError, match="argument"):
        Evaluation(0.25, 0.625, np.zeros((2, 2), int)).report(("only one",))
