"""A small robot, and what the simulator lacks here."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

from train.sim.robot.world import RobotConfig

SMALL = RobotConfig(image_size=64, render_size=128, shadow_size=256, frames=8)


@cache
def tried() -> subprocess.CompletedProcess:
    """Loads the robot in another process, since a driver may crash; prints what came with the imports."""
    code = "import sys, train.make_robot, train.evaluation.robot; print({'mujoco', 'metaworld'} & set(sys.modules)); "
    code += "from train.sim.robot.world import Robot, RobotConfig; Robot(RobotConfig(), 'test').require()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def why_not() -> str | None:
    """What the robot lacks here."""
    return tried().stderr.strip().splitlines()[-1] if tried().returncode and tried().stderr else None
