"""What the commands that compare predictions with published points share: the halves of a split, a line of progress, CSV and page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

#: Told what is predicted now, and the share that is done.
Progress = Callable[[str, float], None]
#: Halves of a set of points: causes of errors are sought in the first, the second is only reported.
HALVES: Final = ("develop", "test")


def require_half(name: str) -> None:
    """Raise UnknownNameError where `name` is no half; "" stands for both."""
    if name and name not in HALVES:
        raise UnknownNameError("half", name, list(HALVES))


def report(compare: Callable[[Progress], pd.DataFrame], page: Callable[[pd.DataFrame], str], out: Path | None) -> None:
    """Compare, with a line of progress on a terminal; write the points as CSV to `out` and their page to the standard output."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=1.0)
        frame = compare(lambda name, share: bar.update(task, description=name, completed=share))
    if out is not None:
        frame.to_csv(out, index=False)
    sys.stdout.write(page(frame))
