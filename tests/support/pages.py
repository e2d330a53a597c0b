"""Pages of Markdown: their code blocks, run as a reader would run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

from tests.support.samples import small_file


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, from top to bottom."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each `$ orthwrap …` line, without the program's name and comments."""
    lines = re.findall(r"^\$ orthwrap (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def lay_out(folder: Path) -> None:
    """The files that pages speak of, small."""
    from PIL import Image

    for name in ("model.h5", "keras_model.h5", "before.h5", "after.h5"):
        (folder / name).write_bytes(small_file(".h5").read_bytes())
    np.savez(folder / "mydata.npz", x=np.ones((8, 8, 8, 1), "float32"), y=np.arange(8))
    (folder / "my_data.py").write_text(
        "import numpy as np\ndef make(): return np.ones((8, 8, 8, 1)), np.arange(8)\n"
    )
    for i in range(10):
        place = folder / "photos" / f"class{i}"
        place.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(place / "photo.png")
