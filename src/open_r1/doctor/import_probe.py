"""Child process: imports one library, as training does."""

from __future__ import annotations

import importlib

from open_r1.machine.answer import Answer


def main() -> None:
    """Tells ``version``. An attribute that is asked for is fetched too: vLLM imports its parts only then."""
    answer = Answer()
    answer.begin(f"import {answer.asked['module']}")
    module = importlib.import_module(answer.asked["module"])
    if answer.asked.get("attribute"):
        getattr(module, answer.asked["attribute"])
    answer.say(at="", version=str(getattr(module, "__version__", "")))


if __name__ == "__main__":
    main()
