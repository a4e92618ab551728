"""The worked examples of docs/extending.md, each registered as the page says and used."""

from __future__ import annotations

import math
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vpfb_core as vpfb
from vpfb_core import data, methods, names, networks
from vpfb_core.data import LoadOptions, catalogue
from vpfb_core.dynamics import ode, tableaux
from vpfb_core.methods.path import homotopy
from vpfb_core.methods.step import DataShape
from vpfb_core.methods.vpfb.method import VPFB
from vpfb_core.uses.ood import scores
from vpfb_core.uses.ood.descriptors import describe

PAGE = Path(vpfb.__file__).parents[1] / "docs" / "extending.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documents are not installed with the package")


def written(name: str, folder: Path) -> Path:
    """The file of the page that has this name, written into a folder."""
    found = re.search(rf"^<!-- file: {re.escape(name)} -->\n```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert found, f"no example {name}"
    (folder / name).write_text(found[1], "utf-8")
    return folder / name


def defined(name: str, folder: Path) -> dict[str, Any]:
    """What a file of the page defines."""
    return runpy.run_path(str(written(name, folder)))


def test_a_new_data_set_is_found_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("stripes.py", tmp_path)
    monkeypatch.setattr(catalogue.sets, "__path__", [*catalogue.sets.__path__, str(tmp_path)])
    found = catalogue.registered()["stripes"]
    del sys.modules["vpfb_core.data.sets.stripes"]
    monkeypatch.setitem(data.SETS, "stripes", found)
    images = found.load(LoadOptions(conditional=True)).in_memory()
    assert (len(images), images.shape, images.groups[0].classes) == (found.images, found.shape, found.classes)
    horizontal, vertical = images.images[0, 0], images.images[1, 0]
    assert (horizontal == horizontal[:, :1]).all()
    assert (vertical == vertical[:1]).all()
    assert len(data.load("stripes:test")) == 100, "a fixed fifth"


def test_a_new_solver_has_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ralston = defined("ralston.py", tmp_path)["RALSTON"]
    monkeypatch.setattr(tableaux, "METHODS", {**tableaux.METHODS, ralston.name: ralston})
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    exact = torch.tensor([[math.cos(1), -math.sin(1)]], dtype=torch.float64)

    def error(steps: int) -> float:
        found = ode.solve(lambda x, t: torch.stack([x[:, 1], -x[:, 0]], 1), start, method="ralston", steps=steps).x
        return float((found - exact).norm())

    assert error(20) / error(40) == pytest.approx(2**ralston.order, rel=0.05)


def test_a_new_score_reads_what_the_field_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slope = defined("slope.py", tmp_path)["SLOPE"]
    monkeypatch.setitem(scores.SCORES, "slope", slope)
    model, images = vpfb.load("digits"), data.load("digits", limit=4).images
    z = model.standardise(images)
    expected = describe(model.field, z, 0.25).energy - describe(model.field, z, 0.5).energy
    torch.testing.assert_close(model.score(images, "slope"), expected)


def test_a_new_schedule_has_the_derivatives_and_the_floor_that_it_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    circle = defined("circle.py", tmp_path)["Circle"]
    monkeypatch.setitem(homotopy.SCHEDULES, circle.name, circle)
    schedule = homotopy.from_dict({"name": "circle", "sigma_min": 0.1})
    t = torch.linspace(0, 1, 11, dtype=torch.float64).requires_grad_()
    for value, derivative in ((schedule.mean, schedule.mean_derivative), (schedule.std, schedule.std_derivative)):
        (exact,) = torch.autograd.grad(value(t).sum(), t)
        torch.testing.assert_close(derivative(t), exact)
    torch.testing.assert_close(schedule.wronskian(t), 1 / schedule.std(t))
    torch.testing.assert_close(schedule.time(schedule.angle(t, 0.5), 0.5), t)
    assert float(schedule.std(1.0)) == pytest.approx(0.1)


def test_a_new_network_builds_from_its_description_and_starts_at_the_gaussian_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("plain.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(names.NETWORKS, "plain", "plain:Plain")
    plain: Any = networks.find("plain")
    monkeypatch.delitem(sys.modules, "plain")
    settings = plain.Settings.from_dict(plain.defaults((1, 8, 8), (3,), {}, {}))
    plain.check(settings, (1, 8, 8), (3,))
    network = networks.build(plain.describe(settings, (1, 8, 8), (3,)))
    field = VPFB(VPFB.Settings()).field(network, DataShape((1, 8, 8), (3,)))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    energy, score = field.energy_and_score(x, 0.5, torch.tensor([[0], [-1]]))
    torch.testing.assert_close(energy, 0.5 * x.flatten(1).square().sum(1))
    torch.testing.assert_close(score, -x)
    with pytest.raises(vpfb.errors.ConfigError):
        plain.check(settings, (2,), ())


def test_an_energy_without_training_is_sampled_and_has_its_likelihood(tmp_path: Path) -> None:
    found = defined("mixture.py", tmp_path)
    weights, means, stds = found["weights"][:, None], found["means"], found["stds"][:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (stds**2 + (means - mean) ** 2)).sum(0)
    deviation = variance.sqrt() / math.sqrt(2_000)
    assert ((found["by_flow"].mean(0) - mean).abs() < 4 * deviation).all()
    torch.testing.assert_close(found["by_flow"].var(0), variance, rtol=0.1, atol=0)
    signal, noise = found["field"].scales(found["level"])
    torch.testing.assert_close(found["walk"].x.var(0), signal**2 * variance + noise**2, rtol=0.15, atol=0)
    angle = torch.full((5,), found["field"].position(found["level"]))
    torch.testing.assert_close(found["likelihood"], found["log_density"](found["walk"].x[:5], angle), rtol=0, atol=0.01)


def test_a_new_method_trains_draws_and_is_refused_what_needs_an_energy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written("straight.py", tmp_path)
    monkeypatch.setattr(names, "METHODS", dict(names.METHODS))
    monkeypatch.setattr(methods, "_registered", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "straight", raising=False)
    monkeypatch.chdir(tmp_path)
    used = runpy.run_path(str(written("use_straight.py", tmp_path)))
    sys.modules.pop("straight")
    assert used["result"].status == "finished"
    assert used["drawn"].images.shape == used["codes"].shape == (4, 1, 8, 8)
    assert "a model of the method straight does not have" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").is_file()
