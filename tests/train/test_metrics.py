import math
import platform
import subprocess
import sys

import numpy as np

from gnnaccel.train.metrics import pair_metrics, reciprocal_ranks


def test_ranks_by_hand_ties_share_the_average():
    positive = np.array([3.0, 1.0, 2.0])
    negatives = np.array([[1.0, 2.0], [2.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(reciprocal_ranks(positive, negatives), [1.0, 1 / 3, 1 / 2])


def test_constant_scores_get_the_middle_rank():
    assert reciprocal_ranks(np.zeros(1), np.zeros((1, 99)))[0] == 1 / 50.5


def test_pair_metrics_by_hand():
    assert pair_metrics(np.array([2.0, 1.0]), np.array([0.0, -1.0])) == {"ap": 1.0, "auc": 1.0}
    assert pair_metrics(np.array([1.0]), np.array([1.0]))["auc"] == 0.5


def test_nothing_to_judge_is_nan_not_a_number():
    assert all(math.isnan(v) for v in pair_metrics(np.array([]), np.array([])).values())


def test_keep_freed_memory_tells_whether_it_could():
    code = "from gnnaccel.train.allocator import keep_freed_memory as k; print(k())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(platform.libc_ver()[0] == "glibc")
