"""What became of intents, as the API shows it: only what the realising side has said."""

from typing import Any, Protocol

from landbridge.nsx.policy import faults
from landbridge.nsx.policy.contents import Contents
from landbridge.nsx.policy.tree import parent_of, place_of
from landbridge.nsx.snapshot import RealizationState, Realized


class Realization(Protocol):
    """Who makes intents real. Asked on the event loop: it answers from memory."""

    def realized(self, path: str) -> list[Realized]:
        """What became of the intent; nothing, if nothing has yet."""
        ...

    def sequence(self) -> int:
        """The store's sequence (`Contents.sequence`) that the answers are about: a later change of an intent is not
        realised yet, whatever was said of it before."""
        ...


def _current(contents: Contents, source: Realization, path: str) -> list[Realized]:
    known = contents.intents.get(path)
    if known is None:
        # Entries of a service are realised with it.
        place = place_of(path)
        above = parent_of(place, path) if place is not None and place.embedded else ""
        if above not in contents.intents:
            raise faults.missing(path)
        path = above
    if contents.changed.get(path, 0) > source.sequence():
        return []
    return source.realized(path)


def status(contents: Contents, source: Realization, path: str) -> dict[str, Any]:
    """NSX's consolidated status of an intent."""
    entities = _current(contents, source, path)
    states = {entity.state for entity in entities}
    if RealizationState.ERROR in states:
        publish, consolidated = "ERROR", "ERROR"
    elif states == {RealizationState.REALIZED}:
        publish, consolidated = "REALIZED", "SUCCESS"
    else:
        publish, consolidated = "UNREALIZED", "IN_PROGRESS"
    shown: dict[str, Any] = {
        "intent_path": path,
        "publish_status": publish,
        "consolidated_status": {"consolidated_status": consolidated},
        "consolidated_status_per_enforcement_point": [
            {
                "resource_type": "ConsolidatedStatusNsxT",
                "enforcement_point_id": "default",
                "consolidated_status": {"consolidated_status": consolidated},
            }
        ],
    }
    errors = [entity.error for entity in entities if entity.error]
    if errors:
        shown["publish_status_error"] = "; ".join(errors)
    return shown


def entities(contents: Contents, source: Realization, path: str) -> list[dict[str, Any]]:
    """NSX's realized entities of an intent."""
    return [_entity(one) for one in _current(contents, source, path)]


def _entity(one: Realized) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "resource_type": "GenericPolicyRealizedResource",
        "id": one.identifier or one.intent_path.replace("/", "_"),
        "display_name": one.intent_path.rsplit("/", 1)[-1],
        "path": f"/infra/realized-state/enforcement-points/default/{one.entity_type}/{one.identifier}",
        "entity_type": one.entity_type,
        "state": one.state.value,
        "runtime_status": {"REALIZED": "UP", "ERROR": "DOWN"}.get(one.state.value, "UNINITIALIZED"),
        "intent_paths": [one.intent_path],
        "intent_reference": [one.intent_path],
        "alarms": [],
    }
    if one.identifier:
        shown["realization_specific_identifier"] = one.identifier
    if one.error:
        shown["publish_status_error"] = one.error
        shown["alarms"] = [{"message": one.error, "error_details": {"error_message": one.error}}]
    return shown
