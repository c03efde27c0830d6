"""A setting gives a device that is there, or a sentence."""

from __future__ import annotations

import pytest
import torch

from pipeline.devices import choose_device, choose_precision
from pipeline.errors import DeviceUnavailable


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("setting", ["", "gpu", "tpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:99", "cpu:0"])
def test_a_device_that_is_not_there_is_refused(setting: str) -> None:
    if setting == "cuda:" and torch.cuda.is_available():
        pytest.skip("a trailing colon is forgiven where there is a GPU")
    with pytest.raises(DeviceUnavailable, match="auto"):
        choose_device(setting)


@pytest.mark.parametrize(
    ("setting", "dtype"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_cpu_computes_in_fp32_unless_told_otherwise(setting: str, dtype: torch.dtype) -> None:
    assert choose_precision(setting, torch.device("cpu")) == dtype


def test_a_precision_that_is_not_known_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="fp32 or bf16"):
        choose_precision("int4", torch.device("cpu"))
