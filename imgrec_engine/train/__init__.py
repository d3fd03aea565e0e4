"""Training and prediction: `Trainer` for a loop, `Run` for a run folder, `Recogniser` for a trained model.

`prefetch` brings batches to a device for loops of one's own.
"""

from imgrec_engine.train.config import RunConfig
from imgrec_engine.train.evaluation import evaluate
from imgrec_engine.train.explain import Explanation
from imgrec_engine.train.prefetch import prefetch
from imgrec_engine.train.recogniser import Recogniser
from imgrec_engine.train.run import Run
from imgrec_engine.train.tasks import Prediction
from imgrec_engine.train.trainer import Progress, Trainer

__all__ = ["Explanation", "Prediction", "Progress", "Recogniser", "Run", "RunConfig", "Trainer", "evaluate", "prefetch"]
