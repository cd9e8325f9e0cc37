"""Names, addresses and ports of the machines that train together."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence

from gptloom.config.errors import Problem, UserError

SIOCGIFADDR = 0x8915  # of Linux, bits/ioctls.h: the IPv4 address of an interface


def own_place(nodes: Sequence[str]) -> int:
    """Which of ``nodes`` this machine is.

    UserError when names do not resolve (all of them are named), when one is given twice, and when none, or more than
    one, is this machine.
    """
    unknown = [name for name in nodes if not addresses(name)]
    if unknown:
        raise UserError(*(Problem(f"--nodes: the name {name!r} does not resolve here") for name in unknown))
    twice = sorted({name for name in nodes if nodes.count(name) > 1})
    if twice:
        raise UserError(*(Problem(f"--nodes names {name} twice") for name in twice))
    here = [place for place, name in enumerate(nodes) if is_this_machine(name)]
    if not here:
        what = f"this machine ({socket.gethostname()}) is none of --nodes {' '.join(nodes)}"
        raise UserError(Problem(what, mend="name it as the other machines reach it, by name or by address"))
    if len(here) > 1:
        names = " and ".join(nodes[place] for place in here)
        what = f"--nodes: {names} are the same machine, this one"
        raise UserError(Problem(what, mend="--processes is the number of processes on each machine"))
    return here[0]


def addresses(name: str) -> list[str]:
    """The addresses that ``name`` stands for here; none when it does not resolve."""
    try:
        return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(name, None)))
    except (OSError, UnicodeError):
        return []


def is_this_machine(name: str) -> bool:
    """Whether ``name`` is this machine's: by name, or by an address at which it can listen."""
    return name == socket.gethostname() or any(_can_listen_at(address) for address in addresses(name))


def _can_listen_at(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def address_towards(name: str) -> str | None:
    """The address of this machine from which it reaches ``name``; None when there is no way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(name, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing: only asks the routing table
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_towards(name: str) -> str | None:
    """The network interface by which this machine reaches ``name``; None where the system does not tell.

    gloo would listen at the address that this machine's own name has in its own tables, which is often a loopback
    address, or none.
    """
    address = address_towards(name)
    return None if address is None else _interface_of(address)


def _interface_of(address: str) -> str | None:
    """The interface with this IPv4 address (Linux)."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
