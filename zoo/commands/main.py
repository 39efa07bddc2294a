"""The `zoo` command. TensorFlow is imported only by the commands that need it, when they run."""

import functools
import os
import sys

import tyro

import zoo
from zoo.commands.exports import export, reproduce, verify
from zoo.commands.parsing import parse
from zoo.commands.recipes import OF_A_RECIPE, carry_out, list_recipes, pack, train, tune
from zoo.commands.runs import evaluate, predict, report
from zoo.commands.studies import figure
from zoo.errors import UsageError, ZooError
from zoo.text import did_you_mean, one_line

COMMANDS = {
    "list": list_recipes,
    "train": train,
    "tune": tune,
    "pack": pack,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "verify": verify,
    "reproduce": reproduce,
    "report": report,
    "figure": figure,
}


def main(arguments=None):
    """Run it; exits with 0, 1 (failed), 2 (wrong input), 3 (time is up), 130 or 143 (stopped)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments == ["--version"]:
            print("zoo", zoo.__version__)
        elif arguments and arguments[0] in OF_A_RECIPE:
            carry_out(arguments[0], arguments[1:])
        elif arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            hint = did_you_mean(arguments[0], COMMANDS, "See zoo --help.")
            raise UsageError(f"There is no command {arguments[0]!r}. {hint}")
        else:
            commands = {name: _later(command) for name, command in COMMANDS.items()}
            parser = tyro.extras.subcommand_cli_from_dict
            arguments = arguments or ["--help"]
            parse(parser, commands, prog="zoo", description=_ABOUT, args=arguments)()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read has enough, as in `zoo list | head`; Python must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ZooError, OSError) as error:
        print("zoo:", one_line(error), file=sys.stderr)
        wrong_input = isinstance(error, (FileExistsError, FileNotFoundError))
        sys.exit(2 if wrong_input else getattr(error, "exit_code", 1))


_ABOUT = (
    "Network in Network, Deeply-Supervised Nets and distillation: train, look, export, serve. "
    "zoo --version shows the version."
)


def _later(command):
    """The command as something to parse now and call after, so that errors are told apart."""

    @functools.wraps(command)
    def parsed(*arguments, **keywords):
        return functools.partial(command, *arguments, **keywords)

    return parsed
