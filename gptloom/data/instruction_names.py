"""What columns, keys and roles of instruction data are usually called."""

from __future__ import annotations

from gptloom.data.conversation import Role

PROMPTS = ("prompt", "question", "query", "input")
COMPLETIONS = ("completion", "response", "answer", "output")
INSTRUCTIONS = ("instruction",)
INPUTS = ("input", "context")  # beside an instruction: what it is about
INSTRUCTION_ANSWERS = ("output", "response", "answer", "completion", "instances")
MESSAGES = ("messages", "conversations", "conversation", "dialog", "dialogue", "items")
TRANSCRIPTS = ("transcript", "dialogue", "dialog", "conversation")
TEXTS = ("text", "content", "document", "completion")
CHOSEN = ("chosen", "preferred_output")
REJECTED = ("rejected", "non_preferred_output")
SYSTEMS = ("system", "system_prompt")
HISTORIES = ("history",)
TOOLS = ("tools", "functions")
ABOUT_ROWS = ("id", "idx", "index", "uid", "guid", "task", "metric", "source", "name")
"""Columns that say something about a row and are no part of what is read or learned."""

HEADERS = frozenset(
    (*PROMPTS, *COMPLETIONS, *INSTRUCTIONS, *INPUTS, *MESSAGES, *TRANSCRIPTS, *TEXTS, *CHOSEN, *REJECTED, *SYSTEMS)
)
"""Names that make a first row a header, however the rows below it look."""

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""What the one who speaks is called in OpenAI's files, ShareGPT's and those of LLaMA-Factory."""

MESSAGE_KEYS = ("role", "content", "from", "value", "weight", "name", "tool_calls", "tool_call_id", "function_call")
IDLE_MESSAGE_KEYS = ("refusal", "audio", "annotations")
"""Keys that OpenAI's own answers have and that carry no text."""
