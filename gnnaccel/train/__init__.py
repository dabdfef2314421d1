"""Training: configuration, steps, loop, evaluation, checkpoints, prediction."""

from gnnaccel.train.config import Config, ConfigError, load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.predict import Predictor
from gnnaccel.train.trainer import Trainer

__all__ = ["Config", "ConfigError", "LinkTask", "Predictor", "Trainer", "load_config"]
