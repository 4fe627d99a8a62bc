"""The parts of the chatbot in examples/, one by one."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
sys.path.append(str(EXAMPLES))  # they are programs, not a package: each finds its neighbours beside it
