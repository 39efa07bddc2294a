"""The `zoo` command. A command imports TensorFlow only if it needs it, when it runs."""

import contextlib
import errno
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

import zoo
from zoo.commands.demo import demo
from zoo.commands.distilling import distill
from zoo.commands.exports import export, reproduce, verify
from zoo.commands.finetuning import finetune, in_full
from zoo.commands.parsing import parse
from zoo.commands.recipes import OF_A_RECIPE, carry_out, list_recipes, pack, train, tune
from zoo.commands.runs import evaluate, predict, report
from zoo.commands.studies import figure
from zoo.errors import UsageError, ZooError
from zoo.terminal import say
from zoo.text import did_you_mean, one_line

COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_recipes,
    "train": train,
    "finetune": finetune,
    "distill": distill,
    "tune": tune,
    "pack": pack,
    "evaluate": evaluate,
    "predict": predict,
    "demo": demo,
    "export": export,
    "verify": verify,
    "reproduce": reproduce,
    "report": report,
    "figure": figure,
}
# A path cannot be what the user says. A right that this machine does not give, a full disk and the
# like are failures.
_ERRORS_OF_A_PATH = (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NUMBERS_OF_A_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
_DESCRIPTION = """Network in Network, Deeply-Supervised Nets and distillation: train models, look at
the results, export and serve.

--quiet: with any command, print errors and what --json or --csv asks for, and nothing else.
--version: print the version.

Completion of commands and flags: in bash, eval "$(zoo --tyro-print-completion bash)"; in zsh,
zoo --tyro-print-completion zsh > DIRECTORY/_zoo, with a DIRECTORY of $fpath.

Exit codes: 0 it worked, 1 it failed, 2 the input is wrong, 3 the minutes are over; 129, 130 or 143
stopped by a signal. The state of a training is saved in the last two cases.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `zoo` command.

    Exit codes: 0 it worked, 1 it failed, 2 wrong input, 3 the time is up; 129, 130 or 143 stopped.

    Arguments:
        arguments: the command line without its first word; None for that of this process.

    Raises:
        SystemExit: unless the exit code is 0.
    """
    arguments = in_full(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters, such as "±"
            stream.reconfigure(errors="backslashreplace")
    words = [word for word in arguments if word != "--quiet"]
    try:
        with contextlib.ExitStack() as stack:
            if words != arguments and not {"--json", "--csv"} & {*words}:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(_warnings_in_a_line())
            _run(words)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has closed the pipe, as in `zoo list | head`. Python would write the rest when
        # it exits, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ZooError, OSError, MemoryError) as error:
        say(f"zoo: {one_line(error) or 'The memory is full.'}", error=True)
        number = getattr(error, "errno", None)
        wrong_input = isinstance(error, _ERRORS_OF_A_PATH) or number in _NUMBERS_OF_A_PATH
        sys.exit(2 if wrong_input else getattr(error, "exit_code", 1))


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Print a warning for the user as one line, without the file and the line of code."""
    with warnings.catch_warnings():
        as_python_does = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **where: Any) -> None:
            if issubclass(category, UserWarning):
                say(f"Warning: {one_line(message)}", error=True)
            else:
                as_python_does(message, category, *place, **where)

        warnings.showwarning = show
        yield


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        say(f"zoo {zoo.__version__}")
    elif arguments and arguments[0] in OF_A_RECIPE:
        carry_out(arguments[0], arguments[1:])
    elif arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        hint = did_you_mean(arguments[0], COMMANDS, "See zoo --help.")
        raise UsageError(f"There is no command {arguments[0]!r}. {hint}")
    else:
        commands = {name: _call_later(command) for name, command in COMMANDS.items()}
        parser = tyro.extras.subcommand_cli_from_dict
        arguments = arguments or ["--help"]
        parse(parser, commands, prog="zoo", description=_DESCRIPTION, args=arguments)()


def _call_later(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Return a function that tyro parses like the command, and that returns a call to make later.

    So an error of the command is not taken for an error of the parser.
    """

    @functools.wraps(command)
    def parsed(*arguments: Any, **keywords: Any) -> Callable[[], Any]:
        return functools.partial(command, *arguments, **keywords)

    return parsed
