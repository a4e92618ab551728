"""Names of metrics, and what goes with which features."""

from __future__ import annotations

import pytest

from vpfb_core.errors import ConfigError
from vpfb_core.uses.evaluation import metrics


def test_names_come_with_commas_and_once_each() -> None:
    assert metrics.find(["fid, kid", "1nn,fid"]) == ("fid", "kid", "1nn")


@pytest.mark.parametrize(("name", "near"), [("presision", "precision"), ("FID", None), ("recal", "recall")])
def test_an_unknown_name_is_an_error_with_the_nearest(name: str, near: str | None) -> None:
    with pytest.raises(ConfigError, match=name) as raised:
        metrics.find(["bpd", name])
    assert near is None or f"did you mean '{near}'?" in str(raised.value.hint)
    assert "coverage, 1nn" in str(raised.value.hint)


def test_no_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no metric"):
        metrics.find([","])


def test_fid_is_called_so_over_inceptions_features_only() -> None:
    with pytest.raises(ConfigError, match="fid needs the features of Inception, not 'pixels'") as raised:
        metrics.check_features(["fid"], "pixels")
    assert "frechet" in str(raised.value.hint)
    with pytest.raises(ConfigError, match="kernel is called kid"):
        metrics.check_features(["kernel"], "inception")
    metrics.check_features(["fid", "kid", "precision"], "inception")
    metrics.check_features(["frechet", "kernel", "precision"], "pixels")


def test_the_default_is_all_that_features_and_model_allow() -> None:
    pixels = metrics.defaults("pixels", "images", calibrated=False)
    assert set(pixels) == set(metrics.METRICS) - {"fid", "kid", "bpd", "bpd_flow", "sliced", "nll", "statistics"}
    inception = metrics.defaults("inception", "images", calibrated=True)
    assert set(inception) == set(metrics.METRICS) - {"frechet", "kernel", "bpd_flow", "sliced", "nll", "statistics"}
    columns = metrics.defaults("columns", "table", calibrated=True)
    assert set(columns) == set(metrics.METRICS) - {"fid", "kid", "bpd", "bpd_flow", "statistics"}
