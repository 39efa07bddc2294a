"""The command about studies: `zoo figure`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError, check_number
from zoo.terminal import say, show
from zoo.text import did_you_mean


def figure(
    name: Annotated[Positional[str | None], arg(metavar="[STUDY]")] = None,
    seeds: int | None = None,
    runs: Path = Path("runs"),
    out: Path | None = None,
) -> None:
    """Make one of the papers' measurements again: train the missing runs, draw and tabulate.

    Arguments:
        name: Name of a study. Without it, the studies are listed.
        seeds: Number of runs of each kind. Default: the number in the study.
        runs: Folder of the run folders.
        out: Folder that gets NAME.png and NAME.md, and records/ of the runs. Default: results/.
            In a copy of the repository, with all seeds of the study, docs/results/.
            A page of more seeds is not replaced.
    """
    from zoo.experiments import studies

    if name is None:
        rows = [(study, cost, studies.title(study)) for study, cost in studies.MINUTES.items()]
        show(("study", "minutes", "measurement"), rows, right=("minutes",), unbroken=("study",))
        say()
        say("Make one with `zoo figure STUDY`. Finished runs are kept, stopped ones resumed.")
        say("The minutes are those of all its runs, on 2 shared cores of an AMD EPYC.")
        return
    if name not in studies.NAMES:
        hint = did_you_mean(name, studies.NAMES, "`zoo figure` shows the studies.")
        raise UsageError(f"There is no study {name!r}. {hint}")
    if seeds is not None:
        check_number("--seeds", seeds, 1, 2**31 - 1)
    if out is None:
        import_tensorflow()  # the study's module needs Keras
        out = studies.default_folder(name, seeds)
    if out.exists() and not out.is_dir():  # else it would be found after all trainings
        raise UsageError(f"--out is a folder; {out} is none.")
    import_tensorflow()
    result = studies.carry_out(name, seeds=seeds, runs=runs, out=out)
    show(result.columns, result.rows, title=studies.title(name))
    say()
    say(f"The page    {out / name}.md")
    say(f"The figure  {out / name}.png")
