"""Whether an answer is like an example of the published documents."""

from typing import Any


def fits(answer: Any, example: Any, place: str = "$") -> None:
    """`answer` has every key of `example`, each with a value of the same JSON type.

    Extra keys are allowed (contract.md). The first item of a list is the example for all of them.
    """
    if isinstance(example, dict):
        assert isinstance(answer, dict), place
        for name, value in example.items():
            assert name in answer, f"{place}.{name} is missing"
            fits(answer[name], value, f"{place}.{name}")
    elif isinstance(example, list):
        assert isinstance(answer, list), place
        assert answer or not example, f"{place} is empty"
        for number, item in enumerate(answer if example else ()):
            fits(item, example[0], f"{place}[{number}]")
    elif isinstance(example, float):
        assert isinstance(answer, int | float), place
        assert not isinstance(answer, bool), place
    else:
        assert type(answer) is type(example), f"{place}: {answer!r} is not like {example!r}"
    if isinstance(example, str) and example.endswith("Z") and example[4:5] == "-":
        assert answer.endswith("Z"), place


def says(answer: Any, example: Any, place: str) -> None:
    """What `example` holds at this place, such as `data.0.status`, `answer` holds, too."""
    for step in place.split("."):
        key = int(step) if step.isdecimal() else step
        answer, example = answer[key], example[key]
    _holds(answer, example, place)


def _holds(answer: Any, example: Any, place: str) -> None:
    if isinstance(example, dict):
        for name, value in example.items():
            _holds(answer[name], value, f"{place}.{name}")
    else:
        assert answer == example, place
