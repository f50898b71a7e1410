"""How good a model is: tables of its own rows beside those that cost nothing, and the paper's sweep over timesteps."""

from talkhead.evaluate.ablation import ablate
from talkhead.evaluate.evaluation import evaluate
from talkhead.evaluate.report import Report, Table
from talkhead.evaluate.videos import judge

__all__ = ["Report", "Table", "ablate", "evaluate", "judge"]
