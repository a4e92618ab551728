from __future__ import annotations

import ast
from pathlib import Path

import vpfb_core


def test_nothing_asks_which_kind_of_source_it_has() -> None:
    root = Path(vpfb_core.__file__).parents[1]
    found = []
    for file in [*root.glob("vpfb_core/**/*.py"), *root.glob("vpfb_cli/**/*.py")]:
        text = file.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "ImageSet" in text or "StreamedSet" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = ast.unparse(node.args[1])
                found += [f"{file.name}:{node.lineno}"] * ("ImageSet" in asked or "StreamedSet" in asked)
    assert not found
