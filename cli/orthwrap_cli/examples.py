"""What `--help` ends with: examples that run as they stand, which a test does."""

from __future__ import annotations

EXAMPLES = {
    "inspect": (
        "orthwrap inspect model.h5",
        "orthwrap inspect model.h5 --target 'conv*' --sort residual --top 10",
        "orthwrap inspect model.h5 --html report.html",
    ),
    "apply": (
        "orthwrap apply model.h5 --data data.npz --goal 10x --epochs 2 -o tuned.keras",
        "orthwrap apply model.h5",
        "orthwrap apply model.h5 --target 'conv*' --regularizer lorth --dry-run",
    ),
    "finetune": ("orthwrap finetune model-orth.h5 --data data.npz --epochs 2",),
    "strip": ("orthwrap strip model-orth.h5 -o plain.h5",),
    "upgrade": ("orthwrap upgrade old.h5 -o new.keras",),
    "compare": (
        "orthwrap compare model.h5 model-orth.h5",
        "orthwrap compare model.h5 model-orth.h5 --json - --quiet",
    ),
    "check": (
        "orthwrap check model.h5 --max residual=100",
        "orthwrap check model.h5 --max 'conv*:condition=1e6' --format github",
    ),
    "bench": (
        "orthwrap bench model.h5 --batch 64 --regularizer so",
        "orthwrap bench model.h5 --target 'conv*' -r so -r srip --seconds 5 --json costs.json",
    ),
    "regularizers": ("orthwrap regularizers", "orthwrap regularizers --json regularizers.json"),
}
"""By command. The files are `model.h5`, with data that fit it, what `apply` made of it, and a file
of an older Keras."""


def epilog(command: str) -> str:
    """The end of a command's help, in Markdown: a paragraph for each example."""
    return "\n\n".join(["**Examples**", *(f"`$ {line}`" for line in EXAMPLES[command])])
