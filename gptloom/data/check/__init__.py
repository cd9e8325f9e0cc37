"""``gptloom data check``: every problem of a file at once, and what it holds, in one pass and bounded memory."""
