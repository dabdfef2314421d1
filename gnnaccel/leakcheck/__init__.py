"""Does a sampler or a model see what it should not? Checks to point at your own; see docs/leakcheck.md."""

from gnnaccel.leakcheck.adapters import TaskModel, gnnaccel_sampler, model_of_run, model_of_task, pyg_sampler
from gnnaccel.leakcheck.model import check_model
from gnnaccel.leakcheck.report import Check, Report
from gnnaccel.leakcheck.sampler import check_sampler
from gnnaccel.leakcheck.stream import batches, change

__all__ = [
    "Check",
    "Report",
    "TaskModel",
    "batches",
    "change",
    "check_model",
    "check_sampler",
    "gnnaccel_sampler",
    "model_of_run",
    "model_of_task",
    "pyg_sampler",
]
