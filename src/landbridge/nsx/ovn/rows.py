"""What the compiler makes: rows of the northbound database, and what of an intent they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# In `external_ids` of each row of ours: its key, and what was once chosen for it and must stay (an address).
KEY = "landbridge:key"
CHOICE = "landbridge:choice"


class Ref(NamedTuple):
    """Another row, in a column that refers to rows."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """A wanted row. `columns` are in OVSDB's normal form (see `landbridge.nsx.ovn.ovsdb`), references as `Ref`.

    A column that is not given must have its default, so that what somebody sets there by hand is undone as well.
    Those that ovn-northd writes are not looked at.
    """

    table: str
    key: str
    columns: Mapping[str, Any]
    choice: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """An intent is realised when these rows are there; with `error` it can not be."""

    intent_path: str
    entity_type: str
    rows: tuple[Ref, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Present:
    """What the compiler must know of the database: choices made before, and addresses that OVN gave out."""

    choices: Mapping[str, str] = field(default_factory=dict)  # by key of the row
    dynamic: Mapping[str, str] = field(default_factory=dict)  # by name of the logical switch port


@dataclass
class Wanted:
    """All rows that a snapshot needs, and what each intent has of them."""

    rows: dict[Ref, Row] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    # Members of a column of a row that several modules add to: (row, column) -> references.
    members: dict[tuple[Ref, str], set[Ref]] = field(default_factory=dict)

    def add(self, table: str, key: str, choice: str = "", **columns: Any) -> Ref:
        """Want a row; a reference to it."""
        ref = Ref(table, key)
        self.rows[ref] = Row(table, key, columns, choice)
        return ref

    def join(self, owner: Ref, column: str, *refs: Ref) -> None:
        """Put rows into a column of `owner`: those of most tables live only as long as something refers to them."""
        self.members.setdefault((owner, column), set()).update(refs)

    def claim(self, path: str, entity_type: str, *rows: Ref, error: str = "") -> None:
        self.claims.append(Claim(path, entity_type, rows, error))

    def finish(self) -> None:
        """Write the members into their rows."""
        for (owner, column), refs in self.members.items():
            row = self.rows.get(owner)
            if row is not None:
                self.rows[owner] = Row(row.table, row.key, {**row.columns, column: frozenset(refs)}, row.choice)
        self.members.clear()
