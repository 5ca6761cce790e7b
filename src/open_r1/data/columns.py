"""Which columns hold the conversation, the prompt, the completion and the gold answer, and what a row of them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

from open_r1.data.bad_rows import BadRow
from open_r1.errors import UserError

MESSAGES = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "problem", "question", "instruction", "query")
WORKED = ("completion", "solution", "generation", "response", "output")
ANSWERS = ("answer", "final_answer", "ground_truth", "gold", "solution")
"""A bare answer is preferred to a worked solution; a solution is parsed for its final answer."""

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
FOLLOWS = {
    None: ("system", "developer", "user"),
    "system": ("user",),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""The roles that may follow a role; None stands for the beginning."""

_SPEAKERS = ("user", "assistant")
"""The roles that have to say something: a system message may be empty, and so may what a tool returns."""

GSM8K_MARK = "#### "

Message = dict[str, Any]
Need = Literal["completion", "answer", "prompt"]


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use; None where there is none.

    Either ``messages`` is set, or ``prompt`` with what is needed beside it.
    """

    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    answer: str | None = None

    @property
    def conversation(self) -> list[str]:
        """The columns that `to_messages` reads."""
        names = [self.messages] if self.messages else [self.prompt, self.completion]
        return [name for name in names if name is not None]

    def __str__(self) -> str:
        roles = ("messages", "prompt", "completion", "answer")
        return ", ".join(f"{role} = {name!r}" for role, name in zip(roles, astuple(self), strict=True) if name)


def find_columns(
    names: Sequence[str],
    *,
    messages: str | None = None,
    prompt: str | None = None,
    completion: str | None = None,
    answer: str | None = None,
    need: Need = "completion",
) -> Columns:
    """Finds the columns by their usual names, unless they are named.

    Args:
        names: the columns that there are.
        messages, prompt, completion, answer: columns that the user named.
        need: "completion" for SFT (a conversation, or a prompt and its worked solution), "answer" for reinforcement
            learning and evaluation (a prompt and its gold answer), "prompt" for generation.

    Raises:
        UserError: a named column is not there, nothing is found, or several fit.
    """
    named = {"messages": messages, "prompt": prompt, "completion": completion, "answer": answer}
    for role, name in named.items():
        if name is not None and name not in names:
            raise UserError(f"--{role}_column {name}: no such column; the data set has {_list(names)}")
    if need == "completion":
        return _for_training(names, messages, prompt, completion)
    if messages is None:
        prompt = prompt or _prompt(names)
    if prompt is None and messages is None:
        messages = _only(names, MESSAGES, "messages")
        if messages is None:
            raise UserError(f"no column of prompts among {_list(names)}: name it with --prompt_column")
    # A column is not both question and answer, whatever it is called.
    answer = answer or next((name for name in ANSWERS if name in names and name != prompt), None)
    if need == "answer" and answer is None:
        raise UserError(f"no column of gold answers among {_list(names)}: name it with --answer_column")
    return Columns(messages=messages, prompt=prompt, answer=answer)


def _for_training(names: Sequence[str], messages: str | None, prompt: str | None, completion: str | None) -> Columns:
    if messages is not None:
        return Columns(messages=messages)
    if prompt is None and completion is None:
        messages = _only(names, MESSAGES, "messages")
        if messages is not None:
            return Columns(messages=messages)
    prompt = prompt or _prompt([name for name in names if name != completion])
    others = [name for name in names if name != prompt]
    if completion is None and prompt == "prompt" and "completion" in others:
        completion = "completion"
    completion = completion or _only(others, WORKED, "completion") or _only(others, ("answer",), "completion")
    if prompt is None:
        raise UserError(
            f"no column of conversations or prompts among {_list(names)}: "
            "name it with --messages_column, or with --prompt_column and --completion_column"
        )
    if completion is None:
        raise UserError(f"no column of completions beside {prompt!r} among {_list(names)}: use --completion_column")
    return Columns(prompt=prompt, completion=completion)


def _prompt(names: Sequence[str]) -> str | None:
    """The column of prompts, None if there is none.

    Raises:
        UserError: several fit, or it is Alpaca's, where what the instruction is about stands in another column.
    """
    found = _only(names, PROMPTS, "prompt")
    if found == "instruction" and "input" in names:
        raise UserError(
            "'instruction' and 'input' are one prompt in two columns: join them in a column 'prompt', or train on the "
            "instruction alone with --prompt_column instruction"
        )
    return found


def _only(names: Sequence[str], candidates: Sequence[str], role: str) -> str | None:
    """The one candidate that is among ``names``, None if none is."""
    found = [name for name in candidates if name in names]
    if len(found) > 1:
        raise UserError(f"{_list(found)} could each be the {role} column: choose one with --{role}_column")
    return found[0] if found else None


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no columns at all"


def to_messages(row: Mapping[str, Any], columns: Columns) -> list[Message]:
    """The conversation of one row, checked, with the roles system, user, assistant and tool.

    Raises:
        BadRow: it is empty, is not text, has wrong roles or a wrong order, or no assistant turn.
    """
    if columns.messages is not None:
        messages = _message_list(row[columns.messages])
    else:
        messages = _turns(row[columns.prompt], "user") + _turns(row[columns.completion], "assistant")
    _check_order(messages)
    if all(message["role"] != "assistant" for message in messages):
        raise BadRow("no assistant turn")
    return messages


def to_prompt(row: Mapping[str, Any], columns: Columns, system_prompt: str | None = None) -> list[Message]:
    """The messages before the answer: of a prompt column, or of a conversation without its last assistant turn.

    Args:
        system_prompt: put first where the row has no system message of its own.

    Raises:
        BadRow: it is empty, is not text, or has wrong roles or a wrong order.
    """
    if columns.prompt is not None:
        messages = _turns(row[columns.prompt], "user")
    else:
        messages = _message_list(row[columns.messages])
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise BadRow("no user turn")
    _check_order(messages)
    if messages[-1]["role"] not in ("user", "tool"):
        raise BadRow("the prompt does not end with a user turn")
    return with_system_prompt(messages, system_prompt)


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """``messages`` with ``system_prompt`` first, unless there is none or they begin with a system message."""
    if system_prompt is None or messages[0]["role"] in ("system", "developer"):
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def gold(row: Mapping[str, Any], columns: Columns) -> str:
    """The text of the gold answer: what follows the last ``####`` as GSM8K writes it, else the whole column.

    Raises:
        BadRow: there is none.
    """
    value = row[columns.answer] if columns.answer is not None else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None or value in ("", "nan"):  # not a number: a missing one in a column of floats
        raise BadRow("no gold answer")
    if not isinstance(value, str):
        raise BadRow("the gold answer is not text")
    text = value.rpartition(GSM8K_MARK)[2].strip()
    if not text:
        raise BadRow("no gold answer")
    return text


def _turns(value: Any, role: str) -> list[Message]:
    """A prompt or completion, which is text or messages."""
    return _message_list(value) if isinstance(value, list) else [_message(role, value)]


def _message_list(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise BadRow("the conversation is not a list of messages")
    if not value:
        raise BadRow("the conversation is empty")
    messages = []
    for item in value:
        if not isinstance(item, Mapping):
            raise BadRow("a message is not a mapping of role and content")
        said_by, content = (item.get("from"), item.get("value")) if "from" in item else (item.get("role"), None)
        others = {key: item[key] for key in item if key not in ("role", "from", "value") and item[key] is not None}
        if not others.get("tool_calls", True):  # templates ask whether there is the field, not what is in it
            del others["tool_calls"]
        messages.append(_message(said_by, content if "from" in item else item.get("content"), others))
    return messages


def _message(said_by: Any, content: Any, others: Mapping[str, Any] | None = None) -> Message:
    """One message; ``others`` are fields that chat templates read, such as ``reasoning_content`` or ``tool_calls``."""
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise BadRow(f"unknown role {str(said_by)[:20]!r}")
    calls_tool = role == "assistant" and others is not None and bool(others.get("tool_calls"))
    if content is None and not calls_tool:
        raise BadRow(f"the {role}'s content is missing")
    if content is not None and not isinstance(content, str):
        raise BadRow(f"the {role}'s content is not text")
    if not calls_tool and not content.strip() and role in _SPEAKERS:
        raise BadRow(f"the {role}'s content is empty")
    return {**(others or {}), "role": role, "content": content or ""}


def _check_order(messages: Sequence[Message]) -> None:
    before = None
    for message in messages:
        role = message["role"]
        if role not in FOLLOWS[before]:
            where = f"follows {before}" if before else "comes first"
            raise BadRow(f"wrong order of roles: {role} {where}")
        before = role
