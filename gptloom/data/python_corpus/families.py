"""Docstrings with the family of their module as a label: what the quickstart fine-tunes a classifier on.

The families are the chapters of the Python Library Reference, those next to each other put together until each has several
modules and enough docstrings. A label is not to be read off a name: a docstring goes without its heading, and the
module's own name is taken out of it. Whole modules are held out, so that the words of one are not to be remembered.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from gptloom.data.python_corpus.pages import Page

# Chapters of the reference (in its order) and the top-level modules of each, without leading underscores. What a chapter
# of leftovers holds ("Superseded Modules") stands with what it is about; modules that are named nowhere have no label.
FAMILIES = {
    # Text Processing, Binary Data, Structured Markup, the files of Internet Data Handling, File Formats, i18n
    "text": "string re sre_compile sre_parse sre_constants difflib textwrap unicodedata stringprep codecs encodings struct "
    "html xml markupbase json base64 binascii quopri uu csv configparser tomllib plistlib netrc xdrlib gettext locale "
    "shlex",
    # Data Types, Functional Programming; built-in types and functions
    "data types": "builtins datetime pydatetime zoneinfo calendar strptime collections collections_abc heapq bisect array "
    "weakref weakrefset types copy pprint reprlib enum graphlib itertools functools operator",
    # Numeric and Mathematical Modules
    "numbers": "numbers math cmath decimal pydecimal fractions random statistics secrets",
    # File and Directory Access, Data Persistence, Compression, Operating System Services
    "files and system": "pathlib os posixpath ntpath genericpath nturl2path stat filecmp tempfile glob fnmatch linecache "
    "fileinput shutil pickle copyreg shelve dbm sqlite3 compression gzip bz2 lzma zipfile tarfile hashlib hmac io pyio time "
    "argparse getopt optparse logging getpass curses platform ctypes pty tty pipes crypt mailcap sndhdr",
    # Concurrent Execution, and the part of Networking that waits for several things at once
    "concurrency": "threading threading_local multiprocessing concurrent subprocess sched queue contextvars asyncio "
    "selectors signal asyncore asynchat",
    # Networking, Internet Protocols, and the messages of Internet Data Handling
    "internet": "socket ssl email mailbox mimetypes webbrowser wsgiref urllib http ftplib poplib imaplib nntplib smtplib "
    "smtpd telnetlib uuid socketserver xmlrpc ipaddress cgi cgitb",
    # Graphical User Interfaces with Tk, Program Frameworks
    "windows": "tkinter idlelib turtle turtledemo cmd",
    # Development Tools, Debugging and Profiling, Software Packaging and Distribution
    "tools": "pydoc doctest unittest lib2to3 bdb pdb profile cProfile pstats timeit trace tracemalloc distutils ensurepip "
    "venv zipapp",
    # Python Runtime Services, Importing Modules, Language Services, Custom Interpreters
    "language": "sysconfig warnings dataclasses contextlib abc py_abc atexit traceback future__ inspect annotationlib site "
    "sitebuiltins code codeop zipimport pkgutil modulefinder runpy importlib imp ast symtable token keyword tokenize "
    "tabnanny pyclbr py_compile compileall dis opcode pickletools typing",
}
FAMILY_OF = {module: family for family, modules in FAMILIES.items() for module in modules.split()}

FEWEST_WORDS = 5  # of a docstring: "Return the name." could be anyone's
MOST_OF_A_MODULE = 60  # docstrings: a large module would else be its family
FEWEST_OF_A_FAMILY = 40  # some Pythons come without the windows
HELD_OUT_SHARE = 0.25  # of a family's docstrings

_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Docstring:
    """One labelled row: the text on one line, its family, and the top-level module that it is from."""

    text: str
    family: str
    module: str


def labelled_docstrings(pages: Sequence[Page]) -> list[Docstring]:
    """The rows of all pages whose module has a family, no text twice, at most so many of a module, evenly chosen.

    Families with few rows are left out; of a single family there is nothing to tell apart, and no row.
    """
    of_module: dict[str, list[Docstring]] = defaultdict(list)
    seen: set[str] = set()
    for page in pages:
        family = FAMILY_OF.get(page.group) if page.kind != "topic" else None
        for entry in page.entries if family else ():
            text = without_name(entry.text, page.group)
            if len(_WORD.findall(text)) >= FEWEST_WORDS and text.lower() not in seen:
                seen.add(text.lower())
                of_module[page.group].append(Docstring(text, str(family), page.group))
    rows = [row for found in of_module.values() for row in _evenly(found, MOST_OF_A_MODULE)]
    sizes = Counter(row.family for row in rows)
    kept = [row for row in rows if sizes[row.family] >= FEWEST_OF_A_FAMILY]
    return kept if len({row.family for row in kept}) > 1 else []


def as_table(rows: Sequence[Docstring]) -> str:
    """Tab-separated rows below their names, as ``gptloom finetune --text text --label family`` reads them."""
    lines = [("text", "family", "module"), *((row.text, row.family, row.module) for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def without_name(text: str, module: str) -> str:
    """The text on one line; the module's name, with what is dotted behind it and whatever its case, becomes ``module``."""
    own = re.compile(rf"\b_?{re.escape(module)}(\.\w+)*\b", re.IGNORECASE)
    return " ".join(own.sub("module", text).split())


def part_by_module(rows: Sequence[Docstring], first: Collection[str]) -> tuple[list[Docstring], list[Docstring]]:
    """Training and held-out rows: of each family whole modules, until about a quarter of its rows are held out.

    Those in ``first`` are held out before others (no model has read them), the others in the order of their names'
    hashes; a module that would overshoot is passed over, and at least two modules of each family stay.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sizes[row.family][row.module] += 1
    held_out = {module for counts in sizes.values() for module in _held_out(counts, first)}
    return [row for row in rows if row.module not in held_out], [row for row in rows if row.module in held_out]


def _held_out(counts: Counter[str], first: Collection[str]) -> list[str]:
    room = HELD_OUT_SHARE * counts.total()
    chosen: list[str] = []
    for module in sorted(counts, key=lambda name: (name not in first, sha256(name.encode()).hexdigest())):
        if counts[module] <= room and len(chosen) < len(counts) - 2:
            chosen.append(module)
            room -= counts[module]
    return chosen


def _evenly(rows: Sequence[Docstring], most: int) -> list[Docstring]:
    """``most`` rows that lie evenly among all of them; all where there are no more."""
    return [rows[i * len(rows) // most] for i in range(most)] if len(rows) > most else list(rows)
