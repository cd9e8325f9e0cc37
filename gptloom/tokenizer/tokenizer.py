"""The `Tokenizer` that every other room uses: text to ids and back, exactly, whatever its kind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.tokenizer.layout import CONTINUES, END_OF_TEXT, PAD, WORD_END, letter_bytes
from gptloom.tokenizer.pieces import PIECE_CHARACTERS, cut_text

KINDS = ("bpe", "gpt2", "gpt1", "wordpiece", "characters", "bytes", "words", "other")
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_PARTS_OF_WORDS = ("wordpiece", "gpt1")  # kinds that clean a text and drop its spacing
# Parts of a tokenizer.json of kind `other` that lose more of a text than its border or its Unicode form.
_LOSING = re.compile(r'"(BertNormalizer|Lowercase|StripAccents|BertPreTokenizer|Whitespace|WhitespaceSplit|Removed)"')


class Tokenizer:
    """A Hugging Face ``tokenizer.json`` with what language modelling needs around it.

    Immutable, safe to share between threads, and picklable, so that worker processes can be handed one.

    Attributes:
        kind: ``bpe``, ``gpt2``, ``gpt1``, ``wordpiece``, ``characters``, ``bytes``, ``words``, or ``other`` (anything
            else that was loaded).
        vocab_size: highest id + 1, special tokens included.
        eot_id: id of the token between documents: ``<|endoftext|>``, but ``[SEP]`` for ``wordpiece``, the line end for
            ``gpt1``, whose vocabulary has no token of its own for it, and the ``eos_token`` for some of kind ``other``.
        pad_id: id of the padding token; None where the vocabulary has none (GPT-2's): a mask alone tells padding.
        unk_id: id of what stands for the unknown; None where nothing is unknown.
        cls_id: id of the token before a text (``[CLS]``), None where there is none; so are sep_id and mask_id.
        sep_id: id of the token after a text or sentence (``[SEP]``).
        mask_id: id of the token that hides another (``[MASK]``).
        special_tokens: spelling → id of every special token.
    """

    kind: str
    vocab_size: int
    eot_id: int
    pad_id: int | None
    unk_id: int | None
    cls_id: int | None
    sep_id: int | None
    mask_id: int | None
    special_tokens: dict[str, int]

    def __init__(
        self,
        tokenizer_json: Mapping[str, Any],
        kind: str,
        *,
        eot_token: str = END_OF_TEXT,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a parsed ``tokenizer.json``.

        Args:
            tokenizer_json: the parsed file; padding and truncation in it are dropped.
            kind: one of `KINDS`.
            eot_token: spelling of the end-of-text token; it must be in the vocabulary.
            config: a ``tokenizer_config.json`` whose other keys (a chat template, say) `save` is to keep.

        Raises:
            ValueError: unknown kind, no ``eot_token``, or a ``tokenizer.json`` the ``tokenizers`` library rejects.
        """
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {KINDS}")
        self.kind = kind
        self._json = {**tokenizer_json, "padding": None, "truncation": None}
        self._eot_token = eot_token
        self._config = dict(config or {})
        try:
            # Special tokens spelled in a text are cut out of it before anything else, unless this is set. The setting
            # belongs to the object, so each mode has its own: threads never change one under each other.
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(self._json))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer.json that the tokenizers library can read: {error}") from error
        self._plain.encode_special_tokens = True
        self._vocab: dict[str, int] = self._plain.get_vocab(with_added_tokens=True)
        if eot_token not in self._vocab:
            raise ValueError(f"the end-of-text token {eot_token!r} is not in the vocabulary")
        self.vocab_size = max(self._vocab.values()) + 1
        added = self._plain.get_added_tokens_decoder()
        self._added_ids = frozenset(added)
        self.special_tokens = {
            added[token_id].content: token_id for token_id in sorted(added) if added[token_id].special
        }
        if kind != "gpt1":  # whose end of text is a line end, which a text may hold too
            self.special_tokens.setdefault(eot_token, self._vocab[eot_token])
        self.eot_id = self._vocab[eot_token]
        model = self._json["model"]
        self.unk_id = model["unk_id"] if model.get("type") == "Unigram" else self._vocab.get(model.get("unk_token"))
        pad_id = self._named("pad_token", PAD)
        self.pad_id = None if pad_id == self.eot_id else pad_id
        self.cls_id, self.sep_id, self.mask_id = (self._named(f"{role}_token") for role in ("cls", "sep", "mask"))

    def _named(self, role: str, usual: str | None = None) -> int | None:
        """The id of what ``tokenizer_config.json`` calls ``role``, else of ``usual`` where that is a special token."""
        token = spelling(self._config.get(role))
        return self._vocab.get(token) if token else self.special_tokens.get(usual or "")

    def changed(self, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Tokenizer:
        """One like this with other parts of its ``tokenizer.json`` and other entries of its ``tokenizer_config.json``.

        An entry that is None goes.
        """
        parts, entries = {**self._json, **settings}, {**self._config, **config}
        entries = {name: value for name, value in entries.items() if config.get(name, value) is not None}
        return Tokenizer(parts, self.kind, eot_token=self._eot_token, config=entries)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parsed ``tokenizer.json``, without padding and truncation; not to be changed."""
        return self._json

    @property
    def config(self) -> Mapping[str, Any]:
        """The ``tokenizer_config.json`` that came with it; not to be changed."""
        return self._config

    @cached_property
    def _special(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(json.dumps(self._json))

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the ``tokenizer.json`` with sorted keys, without padding and truncation."""
        settings = {key: value for key, value in self._json.items() if key not in ("padding", "truncation")}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, hash={self.hash[:12]!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "tokenizer_json": json.dumps(self._json),
            "kind": self.kind,
            "eot_token": self._eot_token,
            "config": self._config,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = json.loads(state["tokenizer_json"])
        self.__init__(settings, state["kind"], eot_token=state["eot_token"], config=state["config"])  # type: ignore[misc]

    # ---- text to ids ----------------------------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of ``text``, with nothing added.

        With ``special`` a special token spelled in the text becomes its id; without, it is text like any other.

        Raises:
            UserError: the text holds half of a surrogate pair, which no UTF-8 text can.
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """`encode` of each text, on all cores; a long text is cut into parts that are encoded side by side."""
        assert not isinstance(texts, str), "encode_batch takes several texts; encode takes one"
        long = any(len(text) > PIECE_CHARACTERS for text in texts)
        if special or not long or self.kind == "other":
            return self._encode(self._special if special else self._plain, list(texts))
        parts = [list(cut_text(text)) for text in texts]
        encoded = iter(self._encode(self._plain, list(chain.from_iterable(parts))))
        return [[token_id for _ in pieces for token_id in next(encoded)] for pieces in parts]

    def _encode(self, backend: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        except (TypeError, UnicodeEncodeError):
            raise_on_surrogates(texts)
            raise

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """`encode` of each text, and for each id the characters (first, one past the last) of the text it stands for.

        Ids of which several make one character all stand for it; white space before a word may belong to its first id.
        """
        try:
            encodings = self._plain.encode_batch(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            raise_on_surrogates(texts)
            raise
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    # ---- ids to text ----------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD, special tokens their spelling or nothing.

        Raises:
            ValueError: an id is negative or not below `vocab_size`.
        """
        if self.kind in _PARTS_OF_WORDS or (self.kind == "other" and not self._is_byte_level):
            return self._plain.decode([self._checked(token_id) for token_id in ids], skip_special_tokens=skip_special)
        table = self._bytes_without_special if skip_special else self._bytes_with_special
        return b"".join([table[self._checked(token_id)] for token_id in ids]).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes an id stands for: joined over the ids of a text they are its UTF-8.

        Empty for special tokens and for ids without a token. Where a tokenizer is not `lossless` they are those of what
        it kept of the text: ``gpt1`` has a space after each word, ``wordpiece`` one before it. For kind ``other`` with a
        decoder that is not byte level, what that decoder adds or strips at the borders of a text is not in here.
        """
        return self._bytes_without_special[self._checked(token_id)]

    @cached_property
    def lossless(self) -> bool:
        """Whether tokens stand for the text itself; if not (cleaned, lower-cased), their bytes are not the text's."""
        if self.kind != "other":
            return self.kind not in _PARTS_OF_WORDS
        return not _LOSING.search(json.dumps([self._json.get("normalizer"), self._json.get("pre_tokenizer")]))

    def is_start(self, token_id: int) -> bool:
        """Whether a token begins a word, for masking whole words; a special token is a word by itself.

        For ``wordpiece`` that is every entry without ``##``. Elsewhere it is one that begins with white space, so the
        first word of a text counts as a start only by its place.

        Raises:
            ValueError: for ``gpt1``, where only the token before tells; for an id outside the vocabulary.
        """
        if self.kind == "gpt1":
            raise ValueError("a token of GPT-1's does not tell whether it begins a word: the one before does")
        if self._checked(token_id) in self._special_ids or self.kind == "words":
            return True
        if self.kind == "wordpiece":
            return not self._spellings.get(token_id, "").startswith(CONTINUES)
        return self.token_bytes(token_id)[:1].isspace()

    def token_text(self, token_id: int) -> str:
        r"""A visible form of one token for tables and pictures: ``·the``, ``\n``, ``\xe2\x80``, ``<|endoftext|>``."""
        self._checked(token_id)
        if token_id in self._special_ids:
            return self._special_ids[token_id]
        if self.kind in _PARTS_OF_WORDS:
            return "".join(_visible(character) for character in self._spellings.get(token_id, ""))
        text = self.token_bytes(token_id).decode("utf-8", errors="backslashreplace")
        return "".join(_visible(character) for character in text)

    def spelling_of(self, token_id: int) -> str:
        """The token as the vocabulary spells it.

        Raises:
            ValueError: no token has this id.
        """
        if token_id not in self._spellings:
            raise ValueError(f"no token of this tokenizer has the id {token_id}")
        return self._spellings[token_id]

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"id {token_id} is outside this tokenizer's ids 0…{self.vocab_size - 1}")
        return token_id

    @cached_property
    def _special_ids(self) -> dict[int, str]:
        return {token_id: content for content, token_id in self.special_tokens.items()}

    @cached_property
    def _spellings(self) -> dict[int, str]:
        return {token_id: token for token, token_id in self._vocab.items()}

    @cached_property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(self._json.get("decoder"))

    @cached_property
    def _bytes_without_special(self) -> list[bytes]:
        table = [b""] * self.vocab_size
        for token, token_id in self._vocab.items():
            if token_id not in self._special_ids:
                table[token_id] = self._bytes_of(token, token_id)
        return table

    @cached_property
    def _bytes_with_special(self) -> list[bytes]:
        table = list(self._bytes_without_special)
        for token_id, content in self._special_ids.items():
            table[token_id] = content.encode("utf-8")
        return table

    def _bytes_of(self, token: str, token_id: int) -> bytes:
        if token_id in self._added_ids or self.kind in ("characters", "words"):
            return token.encode("utf-8")
        if self.kind == "gpt1":
            return token.replace(WORD_END, " ").encode("utf-8")
        if self.kind == "wordpiece":
            return (token.removeprefix(CONTINUES) if token.startswith(CONTINUES) else f" {token}").encode("utf-8")
        if self._is_byte_level:
            values = letter_bytes()
            known = all(letter in values for letter in token)
            return bytes(values[letter] for letter in token) if known else token.encode("utf-8")
        if re.fullmatch("<0x[0-9A-F]{2}>", token):  # SentencePiece's byte fallback
            return bytes([int(token[3:5], 16)])
        if "▁" in token:  # SentencePiece's space
            return token.replace("▁", " ").encode("utf-8")
        return self._plain.decode([token_id], skip_special_tokens=False).encode("utf-8")

    # ---- files ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, from which ``transformers`` gives equal ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((TOKENIZER_FILE, self._json), (CONFIG_FILE, self._saved_config())):
            write_text(folder / name, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @property
    def chat_template(self) -> str | None:
        """The Jinja template with which a conversation becomes text, where the model came with one (its default one)."""
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, each with a name
            return next((one.get("template") for one in template if one.get("name") == "default"), None)
        return template

    def _saved_config(self) -> dict[str, Any]:
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._config}
        roles = {"pad_token": self.pad_id, "unk_token": self.unk_id}
        if self.kind not in _PARTS_OF_WORDS:  # whose own programs know no end of text
            roles["eos_token"] = self.eot_id
        config = {**{role: self._spellings[i] for role, i in roles.items() if i is not None}, **config}
        return {**config, "gptloom_kind": self.kind}


def spelling(token: object) -> str | None:
    """The text of a token that a ``tokenizer_config.json`` names: a string, or an object with its ``content``."""
    content = token.get("content") if isinstance(token, dict) else token
    return str(content) if content else None


def raise_on_surrogates(texts: Sequence[str]) -> None:
    """Raise a UserError that names the first character of ``texts`` that UTF-8 cannot hold, if there is one."""
    for text in texts:
        found = re.search("[\ud800-\udfff]", text)
        if found:
            raise UserError(
                Problem(
                    f"the text holds {found.group()!a}, half of a surrogate pair, which UTF-8 cannot encode",
                    where=f"character {found.start()}, after {text[max(0, found.start() - 30) : found.start()]!r}",
                    mend=r"repair the file; in JSON both halves must be there, such as \ud83d\ude00",
                )
            )


def _visible(character: str) -> str:
    if character == " ":
        return "·"
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
