"""`zoo` commands in processes of their own, which can be killed, and start at once.

They are forked from a server that has TensorFlow loaded: a new Python takes six seconds for that.
Until it is forked, no process has used TensorFlow, so each reads its own TF_CONFIG and threads.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["tensorflow", "zoo.commands.main", "zoo.training", "zoo.report.page"]
PRELOADED += ["zoo.experiments.tuning", "zoo.experiments.studies", "sklearn.datasets"]
PRELOADED += ["zoo.serving.exporting", "zoo.serving.verifying"]
FORKS.set_forkserver_preload(PRELOADED)


class ZooProcess:
    """`zoo ARGUMENTS`, with the methods of `subprocess.Popen`. Its output and errors are in a file.

    Arguments:
        arguments: the command line behind `zoo`.
        environment: all variables of the process; by default those of this one.
    """

    def __init__(self, *arguments, environment=None):
        descriptor, name = tempfile.mkstemp(suffix=".log")
        os.close(descriptor)
        self.log = Path(name)
        words = [str(argument) for argument in arguments]
        variables = dict(os.environ if environment is None else environment)
        self._process = FORKS.Process(target=_main, args=(words, name, variables, os.getcwd()))
        self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.log.name, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Wait -> (all output, None)."""
        self.wait(timeout)
        return self.log.read_text(encoding="utf-8", errors="replace"), None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _main(words, log, variables, folder):
    descriptor = os.open(log, os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = ["zoo", *words]
    import zoo.commands.main

    zoo.commands.main.main()
