"""Import what the tests have already: hostile servers, a stand-in for a server, a quick recipe."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from hostile_servers import HTTP, PICTURE, SLOW, fault_of
from quick_recipe import RECIPE
from stand_in import START, StandIn

ROOT = Path(__file__).parents[2]

__all__ = ["HTTP", "PICTURE", "RECIPE", "ROOT", "SLOW", "START", "StandIn", "fault_of"]
