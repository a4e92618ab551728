"""The README.md of a run folder: what the model is, for whoever finds it."""

from __future__ import annotations

from vpfb_core.config import to_toml
from vpfb_core.model.trained import Model


def model_card(model: Model) -> str:
    """Markdown: data, size, figures, how to use it, how it was made."""
    about, (channels, height, width) = model.about, model.shape
    classes = "; ".join(f"{group.name}: {', '.join(group.classes)}" for group in model.groups) or "none"
    residual = about["figures"]["val_residual"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"""# A vpfb model of {about["data"]["name"]}

One scalar potential, trained by Variational Potential Flow Bayes (Loo et al. 2025, arXiv 2504.16262).

| | |
|---|---|
| data | {about["data"]["images"]} images of {about["data"]["name"]}, {height}×{width}, {"colour" if channels == 3 else "grey"} |
| classes | {classes} |
| parameters | {model.parameters:,} |
| trained | {about["step"]:,} steps, {about["seconds"]:.0f} s on {about["device"]} |
| held-out residual | {"not measured" if residual is None else f"{residual:.4f}"} (E‖∇N − y‖²/d on held-out images; 1 for a Gaussian) |
| seed | {about["seed"]} |
| versions | {versions} |

    vpfb sample -m THIS_FOLDER -n 64 -o grid.png

```python
import vpfb_core as vpfb
images = vpfb.load("THIS_FOLDER").sample(64, seed=0)
```

The settings it was trained with:

```toml
{to_toml(about["config"])}```
"""  # noqa: E501
