"""The command about studies: `zoo figure`."""

from pathlib import Path

from tyro.conf import Positional

from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
from zoo.text import did_you_mean


def figure(
    name: Positional[str | None] = None,
    seeds: int | None = None,
    runs: Path = Path("runs"),
    out: Path = Path("docs/results"),
):
    """Make a measurement of the papers again: train what is missing, draw, tabulate.

    Args:
        name: of a study; without one, the studies are listed.
        seeds: how many runs of each kind; by default as many as the study says.
        runs: where run folders go.
        out: the folder that gets NAME.png and NAME.md.
    """
    from rich.console import Console
    from rich.table import Table

    from zoo.experiments import studies

    if name is None:
        table = Table("study", "measurement", box=None, padding=(0, 2, 0, 0))
        for each in studies.NAMES:
            table.add_row(each, studies.title(each))
        Console().print(table)
        print("\nMake one with `zoo figure STUDY`; it takes up finished and stopped runs.")
        return
    if name not in studies.NAMES:
        hint = did_you_mean(name, studies.NAMES, "`zoo figure` shows the studies.")
        raise UsageError(f"There is no study {name!r}. {hint}")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds is a number of runs, 1 or more; received {seeds}.")
    import_tensorflow()
    made = studies.carry_out(name, seeds=seeds, runs=runs, out=out)
    table = Table(*made.columns, title=studies.title(name), title_justify="left")
    for row in made.rows:
        table.add_row(*row)
    Console().print(table)
    print(f"\nThe page    {out / name}.md")
    print(f"The figure  {out / name}.png")
