"""Which items of a report are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

from mig.compliance.ilike import compile_patterns
from mig.compliance.quota import Quota, QuotaShare
from mig.limits import Limits
from mig.model.compliance import Policy

KEY_BYTES: Final = 16
SHARDS: Final = 512
"""Into how many sets the answers are divided: one of millions would take long to grow."""

Item = TypeVar("Item")


class CheckTraits(NamedTuple):
    """What decides about the items of a check.

    ``key`` stands for its name and test. ``is_named`` tells whether its name is asked for, and
    ``is_included`` whether its compliance is, too.
    """

    key: int
    is_named: bool
    is_included: bool


class PolicyTraits(NamedTuple):
    """What decides about the items under a policy.

    ``is_relevant`` tells whether its answers matter: to the items, or to what is the newest.
    ``is_included`` tells whether its items are asked for.
    """

    name: str
    is_relevant: bool
    is_included: bool


class ItemWindow(NamedTuple):
    """Which items of a command are encoded, if a document can have only some of them.

    They are at most ``size``. Of the command ``command_id`` the first ``skipped`` are left out.
    """

    size: int
    command_id: str = ""
    skipped: int = 0

    def select(self, command_id: str, items: list[Item]) -> list[Item]:
        """Return those of the items of a command."""
        first = self.skipped if command_id == self.command_id else 0
        return items[first : first + self.size]


class LatestAnswers:
    """The answers that a report has had, if it takes only the newest one of each agent.

    An answer is of an agent, to a check of a policy. Of each, only a number of 16 bytes is kept,
    which nobody can foresee: so how long the texts are does not matter, and nobody can make
    another answer look like one of these.

    :param share: how many answers may be kept.
    """

    def __init__(self, share: QuotaShare) -> None:
        self._share = share
        self._secret = os.urandom(KEY_BYTES)
        self._shards: list[set[int]] = [set() for _ in range(SHARDS)]
        self._rehearsed: list[tuple[set[int], list[int]]] | None = None

    def __len__(self) -> int:
        return self._share.taken

    def begin_rehearsal(self) -> None:
        """Note which answers are kept from now on, for :meth:`end_rehearsal`."""
        self._rehearsed = []

    def end_rehearsal(self) -> Iterator[None]:
        """Forget the answers since :meth:`begin_rehearsal`, in short steps."""
        rehearsed, self._rehearsed = self._rehearsed or [], None
        while rehearsed:
            shard, keys = rehearsed.pop()
            shard.difference_update(keys)
            self._share.take(-len(keys))
            yield

    def clear(self) -> Iterator[None]:
        """Forget all answers, in short steps."""
        self._rehearsed = None
        for shard in self._shards:
            count = len(shard)
            shard.clear()
            self._share.take(-count)
            yield

    def make_key(self, *texts: str) -> int:
        """Return a number for ``texts``, of which none contains U+0000."""
        text = "\0".join(texts).encode()
        return int.from_bytes(blake2b(text, digest_size=KEY_BYTES, key=self._secret).digest())

    def take_new(
        self, agentid: str, policy_name: str, found: Sequence[tuple[Item, CheckTraits]]
    ) -> list[tuple[Item, CheckTraits]]:
        """Return what a command answers and no newer one did, and keep all of its answers.

        :raises InvalidInputError: when there are too many.
        :raises UnavailableError: when there are too many together with those of other reports.
        """
        # by the policy's name: the level of a policy may have been changed since
        base = self.make_key(agentid, policy_name)
        keys = [base ^ traits.key for _, traits in found]
        known = self._shards[base % SHARDS]
        new = [each for each, key in zip(found, keys, strict=True) if key not in known]
        if new:
            if self._rehearsed is not None:
                self._rehearsed.append((known, [*set(keys).difference(known)]))
            before = len(known)
            known.update(keys)
            self._share.take(len(known) - before)
        return new


class AnswerKeeper:
    """What all reports with ``latest=true`` keep.

    A client may have as many answers as one report, and all clients together twice as many.
    """

    def __init__(self, limits: Limits) -> None:
        self._quota = Quota(
            limits.latest_answers,
            f"latest must find at most {limits.latest_answers} answers, each of an agent to a"
            " check; ask for fewer agents, actions or checks, or for a later after",
            "latest",
            "too many reports with latest=true run at once",
        )

    @contextmanager
    def keep_answers(self, client: str) -> Iterator[LatestAnswers]:
        """Keep the answers of one report during the block."""
        with self._quota.open_share(client) as share:
            yield LatestAnswers(share)


class ItemSelection:
    """Which items of a report are asked for, by patterns and by compliance.

    :param compliance: of which compliance, or ``None`` for both.
    :param latest: set to take only the newest answers.
    """

    def __init__(
        self,
        *,
        compliance: bool | None = None,
        policies: Sequence[str] = (),
        levels: Sequence[str] = (),
        checks: Sequence[str] = (),
        latest: LatestAnswers | None = None,
    ) -> None:
        self.is_everything = (
            not (policies or levels or checks) and compliance is None and latest is None
        )
        self._compliance = compliance
        self._latest = latest
        self._matches_policy = _compile(policies)
        self._matches_level = _compile(levels)
        self._matches_check = _compile(checks)

    @property
    def takes_latest(self) -> bool:
        """Whether only the newest answers are taken."""
        return self._latest is not None

    def find_policy_traits(self, policy: Policy) -> PolicyTraits:
        """Return the traits of the policy of an action."""
        is_named = self._matches_policy(policy.name)
        is_included = is_named and self._matches_level(policy.level)
        return PolicyTraits(
            name=policy.name,
            # the newest answer may be at another level
            is_relevant=is_included if self._latest is None else is_named,
            is_included=is_included,
        )

    def find_check_traits(self, name: str, type_: str, value: str, compliance: bool) -> CheckTraits:
        """Return the traits of a check; none of its texts contains U+0000."""
        is_named = self._matches_check(name)
        return CheckTraits(
            key=0 if self._latest is None else self._latest.make_key(name, type_, value),
            is_named=is_named,
            is_included=is_named and self._compliance in (None, compliance),
        )

    def includes_name(self, name: str) -> bool:
        """Return whether checks of this name are asked for."""
        return self._matches_check(name)

    def select(
        self, agentid: str, policy_name: str, found: Sequence[tuple[Item, CheckTraits]]
    ) -> list[Item]:
        """Return the items of a command that are asked for, under a policy that is.

        :raises RequestError: as :meth:`LatestAnswers.take_new` does.
        """
        if self._latest is not None:
            # which answer is the newest does not depend on whether it is asked for
            named = [each for each in found if each[1].is_named]
            found = self._latest.take_new(agentid, policy_name, named)
        return [item for item, traits in found if traits.is_included]


def _compile(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a text matches; without patterns, and with a single ``%``, each does."""
    if not patterns or "%" in patterns:
        return lambda text: True
    return compile_patterns(patterns)


EVERY_ITEM: Final = ItemSelection()
