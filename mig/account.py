"""The user and group whose rights the daemon has once it runs."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user and a group of the system."""

    uid: int
    gid: int

    @classmethod
    def of_process(cls) -> Account:
        """Return the account that this process runs as."""
        return cls(uid=os.geteuid(), gid=os.getegid())

    @property
    def is_current(self) -> bool:
        """Whether this process already has the rights of the account, and no others."""
        return self == Account.of_process()

    @property
    def name(self) -> str:
        """The name of the user, or its number when it has none."""
        return find_user_name(self.uid)

    def become(self) -> None:
        """Give this process the rights of the account for good; only root can become another one.

        :raises PermissionError: when this process may not.
        """
        if self.is_current:
            return
        os.setgroups(os.getgrouplist(self.name, self.gid))
        os.setgid(self.gid)
        os.setuid(self.uid)

    @contextmanager
    def act(self) -> Iterator[None]:
        """Run the block with the rights of the account; only root can take those of another one.

        The rights are those of the whole process, so no other thread may run.
        """
        if self.is_current:
            yield
            return
        process, groups = Account.of_process(), os.getgroups()
        os.setgroups(os.getgrouplist(self.name, self.gid))
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(process.uid)
            os.setegid(process.gid)
            os.setgroups(groups)


def find_user_name(uid: int) -> str:
    """Return the name of a user, or the number when there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
