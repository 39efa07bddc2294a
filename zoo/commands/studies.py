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
) -> None:
    """Make one of the papers' measurements again: train the missing runs, draw and tabulate.

    Arguments:
        name: Name of a study. Without it, the studies are listed.
        seeds: Number of runs of each kind. Default: the number in the study.
        runs: Folder of the run folders.
        out: Folder that gets NAME.png and NAME.md.
    """
    from rich.console import Console
    from rich.table import Table

    from zoo.experiments import studies

    if name is None:
        table = Table("study", "measurement", box=None, padding=(0, 2, 0, 0))
        for study in studies.NAMES:
            table.add_row(study, studies.title(study))
        Console().print(table)
        print("\nMake one with `zoo figure STUDY`. Finished runs are kept, stopped ones resumed.")
        return
    if name not in studies.NAMES:
        hint = did_you_mean(name, studies.NAMES, "`zoo figure` shows the studies.")
        raise UsageError(f"There is no study {name!r}. {hint}")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds is a number of runs, 1 or more; received {seeds}.")
    import_tensorflow()
    result = studies.carry_out(name, seeds=seeds, runs=runs, out=out)
    table = Table(*result.columns, title=studies.title(name), title_justify="left")
    for row in result.rows:
        table.add_row(*row)
    Console().print(table)
    print(f"\nThe page    {out / name}.md")
    print(f"The figure  {out / name}.png")
