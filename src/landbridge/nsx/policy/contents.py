"""What the tree holds: as it is (`Contents`), and as a request is changing it (`Draft`)."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeVar

from landbridge.nsx.policy.model.base import Intent, Tag

_I = TypeVar("_I", bound=Intent)
_MACHINES = "/machines/"  # not part of the API's tree


class MachineTags(Intent):
    """The tags of a VM, kept where intents are."""

    kind: ClassVar[str] = "MachineTags"

    @classmethod
    def of_machine(cls, machine: str, tags: list[Tag]) -> "MachineTags":
        return cls(id=machine, path=_MACHINES + machine, tags=tags, resource_type=cls.kind)


class _Reader:
    """Ways to look at intents."""

    intents: Mapping[str, Intent]

    def get(self, path: str, kind: type[_I]) -> _I | None:
        found = self.intents.get(path)
        return found if isinstance(found, kind) else None

    def of(self, kind: type[_I]) -> Iterator[_I]:
        return (intent for intent in self.intents.values() if isinstance(intent, kind))

    def below(self, path: str, kind: type[_I]) -> Iterator[_I]:
        return (intent for intent in self.of(kind) if intent.parent_path == path)


@dataclass(frozen=True)
class Contents(_Reader):
    """All intents at one moment; never changed, only followed by another. `changed` is the sequence of the last
    change of each."""

    sequence: int = 0
    intents: Mapping[str, Intent] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    machine_tags: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    @cached_property
    def children(self) -> dict[str, list[Intent]]:
        """Intents by the path of their parent."""
        found: dict[str, list[Intent]] = {}
        for intent in self.intents.values():
            found.setdefault(intent.parent_path, []).append(intent)
        return found

    def below(self, path: str, kind: type[_I]) -> Iterator[_I]:
        return (intent for intent in self.children.get(path, ()) if isinstance(intent, kind))

    def followed_by(self, sequence: int, changes: Mapping[str, tuple[int, Intent | None]]) -> "Contents":
        """These contents with the given paths changed (None: gone), each at its sequence."""
        intents, changed, tags = dict(self.intents), dict(self.changed), dict(self.machine_tags)
        for path, (at, intent) in changes.items():
            if path.startswith(_MACHINES):
                tags[path.removeprefix(_MACHINES)] = tuple((t.scope, t.tag) for t in intent.tags) if intent else ()
                continue
            changed[path] = at
            if intent is None:
                intents.pop(path, None)
                changed.pop(path, None)
            else:
                intents[path] = intent
        return Contents(sequence, intents, changed, tags)


class Draft(_Reader):
    """The contents as one request changes them: all of it is kept, or nothing."""

    def __init__(self, contents: Contents, user: str, now: int, rule_number: int) -> None:
        self.before = contents
        self.intents: dict[str, Intent] = dict(contents.intents)
        self.user = user
        self.now = now  # ms since the epoch
        self.rule_number = rule_number
        self.touched: dict[str, Intent] = {}
        self.gone: set[str] = set()
        self._born: dict[str, dict[str, None]] = {}  # paths by parent, in order

    def below(self, path: str, kind: type[_I]) -> Iterator[_I]:
        paths = dict.fromkeys(intent.path for intent in self.before.children.get(path, ()))
        found = (self.intents.get(one) for one in paths | self._born.get(path, {}))
        return (intent for intent in found if isinstance(intent, kind))

    def put(self, intent: Intent) -> None:
        if intent.path not in self.before.intents:
            self._born.setdefault(intent.parent_path, {})[intent.path] = None
        self.touched[intent.path] = intent
        self.gone.discard(intent.path)
        if not intent.path.startswith(_MACHINES):
            self.intents[intent.path] = intent

    def delete(self, path: str) -> None:
        self.intents.pop(path, None)
        self.touched.pop(path, None)
        if path in self.before.intents:
            self.gone.add(path)

    def next_rule_number(self) -> int:
        """A number that no rule has had; the firewall's log names rules by it."""
        self.rule_number += 1
        return self.rule_number

    def stamped(self, intent: _I, current: Intent | None, path: str, parent: str) -> _I:
        """A copy with everything that the server sets."""
        name = path.rsplit("/", 1)[-1]
        return intent.model_copy(
            update={
                "id": name,
                "display_name": intent.display_name or name,
                "path": path,
                "relative_path": name,
                "parent_path": parent,
                "resource_type": intent.kind,
                "unique_id": current.unique_id if current else str(uuid.uuid4()),
                "marked_for_delete": False,
                "overridden": False,
                "revision": current.revision + 1 if current else 0,
                "create_time": current.create_time if current else self.now,
                "create_user": current.create_user if current else self.user,
                "last_modified_time": self.now,
                "last_modified_user": self.user,
                "system_owned": current.system_owned if current else False,
                "protection": "NOT_PROTECTED",
            }
        )
