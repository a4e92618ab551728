"""File names in messages and on command lines."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpfb_core.machine.csv_files import csv_lines
from vpfb_core.machine.file_names import expanded, printable, real, typed

# Persian with a joiner, Hindi, a family of joined emoji, a no-break and an ideographic space, é as one sign and as two.
SPOKEN = ("می\u200cخواهم", "हिन्दी", "👩\u200d👧", "a\u00a0b", "a\u3000b", "a  b", "\u00e9", "e\u0301", "a=b", "日本")
CONTROLS = ("a\nb", "a\tb", "a\rb", "\x1b[31m", "a\u2028b", "\u202egnp.a", "caf\udce9")


@pytest.mark.parametrize("name", SPOKEN)
def test_a_message_shows_names_of_every_script_as_they_are(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize("name", CONTROLS)
def test_a_message_shows_control_characters_and_lost_bytes_as_escapes(name: str) -> None:
    shown = printable(name)
    assert "\\" in shown
    assert all(sign not in shown for sign in "\n\t\r\x1b\u2028\u202e\udce9")


@pytest.mark.parametrize(
    "name", [*SPOKEN, *CONTROLS, "-rf", "a b", "it's", 'say "hi"', "$HOME", "\\n", "a;b", "*", "'\n"]
)
def test_a_path_in_advice_reaches_the_command_as_it_is(name: str) -> None:
    command = f"exec {sys.executable} -S -c 'import os, sys; print(os.fsencode(sys.argv[1]))' {typed(name)}"
    done = subprocess.run(["bash", "-c", os.fsencode(command)], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode() == f"{os.fsencode('./-rf' if name == '-rf' else name)!r}\n"


def test_a_tilde_is_the_home_folder_unless_something_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expanded("~/runs/a") == "/home/somebody/runs/a"
    assert expanded("./~/runs") == "./~/runs"
    assert expanded("~no-such-user-here/a") == "~no-such-user-here/a"
    (tmp_path / "~").mkdir()
    assert expanded("~") == "~"


def test_every_name_comes_back_from_a_table() -> None:
    names = [*SPOKEN, *CONTROLS, "a,b", 'say "hi"', "-x.png", "=1+2", " a ", "\r\n"]
    text = csv_lines([["file", "score"], *([name, 1] for name in names)]).decode("utf-8", "surrogateescape")
    assert [row[0] for row in csv.reader(io.StringIO(text, newline=""))] == ["file", *names]


def test_the_real_path_of_a_circle_of_links_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to(tmp_path)
    assert real(tmp_path / "circle" / "a.png").name == "a.png"
    assert real(tmp_path / "link" / "a.png") == real(tmp_path) / "a.png"
