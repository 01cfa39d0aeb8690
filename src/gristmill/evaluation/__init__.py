"""STEP 5: outputs of a model on a part -> Evaluation. numpy only; search and report score by this code."""

from gristmill.evaluation.calibrate import temperature as temperature
from gristmill.evaluation.ensemble import combine as combine
from gristmill.evaluation.ensemble import greedy as greedy
from gristmill.evaluation.evaluate import evaluate as evaluate
from gristmill.evaluation.metrics import METRICS as METRICS
from gristmill.evaluation.metrics import floors as floors
from gristmill.evaluation.metrics import score as score
from gristmill.evaluation.records import Evaluation as Evaluation

__all__ = ["METRICS", "Evaluation", "combine", "evaluate", "floors", "greedy", "score", "temperature"]
