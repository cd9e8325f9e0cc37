"""Which held-out conversations a training has seen."""

from gptloom.data.beginnings import Beginnings, answer_keys
from gptloom.data.conversation import Conversation, Message


def talk(*contents: str) -> Conversation:
    """User and assistant in turn."""
    roles = ("user", "assistant") * len(contents)
    return Conversation(tuple(Message(role, content) for role, content in zip(roles, contents, strict=False)), "f:1")


def seen(trained: list[Conversation], held: list[Conversation]) -> list[tuple[int, int]]:
    """(held-out row, row that has seen it)."""
    sides = []
    for conversations in (trained, held):
        sides.append(Beginnings())
        for row, conversation in enumerate(conversations):
            sides[-1].add(row, conversation)
    rows, where = sides[1].seen_in(sides[0])
    return list(zip(rows.tolist(), where.tolist(), strict=True))


def test_a_prompt_is_seen_whatever_the_answer_and_the_white_space() -> None:
    assert seen([talk("x", "y"), talk("a  b", "c")], [talk("a\nb", "other"), talk("b", "c")]) == [(0, 1)]


def test_a_prompt_is_seen_where_a_trained_conversation_goes_on() -> None:
    assert seen([talk("a", "b", "c", "d")], [talk("a", "other"), talk("c", "d")]) == [(0, 0)]


def test_an_exchange_is_seen_where_a_held_out_conversation_goes_on() -> None:
    """Its first answer was trained on; the same prompt with another answer was not."""
    assert seen([talk("a", "b")], [talk("a", "b", "c", "d"), talk("a", "other", "c", "d")]) == [(0, 0)]


def test_plain_text_is_seen_as_it_stands() -> None:
    def text(content: str) -> Conversation:
        return Conversation((Message("assistant", content),), "f:1")

    assert seen([text("one"), text("two")], [text("two"), text("three")]) == [(0, 1)]


def test_nothing_trained_and_nothing_held_out() -> None:
    assert seen([], [talk("a", "b")]) == [] and seen([talk("a", "b")], []) == []


def test_who_says_it_counts() -> None:
    user, system = (Conversation((Message(role, "a"), Message("assistant", "b")), "f:1") for role in ("user", "system"))
    assert seen([system], [user]) == []
    assert [keys.prompt for keys in answer_keys(user)] != [keys.prompt for keys in answer_keys(system)]


def test_calls_and_tools_count_and_without_them_nothing_changes() -> None:
    def calling(city: str, tool: str = "weather") -> Conversation:
        call = Message("assistant", "", extra={"tool_calls": [{"function": {"name": tool, "arguments": city}}]})
        told = Message("tool", "5 degrees", extra={"tool_call_id": city})
        messages = (Message("user", "How cold is it?"), call, told, Message("assistant", "Cold."))
        return Conversation(messages, "f:1", tools=({"name": tool},))

    assert seen([calling("Oslo")], [calling("Rome"), calling("Oslo"), calling("Oslo", "time")]) == [(1, 0)]
    assert answer_keys(talk("a", "b")) == [(14574799197212292314, 631056994881453376)]  # splits of old files stay
