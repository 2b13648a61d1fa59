"""Migrations in HCX's v1 form, and the halves of migrations that the other site's manager drives."""

import time
from typing import Any

from aiohttp import web

from landbridge.hcx.faults import ApiFault
from landbridge.hcx.inventory import vm_facts
from landbridge.hcx.manager import Manager
from landbridge.hcx.migrations.halves import perform
from landbridge.hcx.migrations.model import FINAL_STATES, Findings, Migration, MigrationInput
from landbridge.hcx.server import API, SESSION, body, caller_peer, data, plain


def routes(manager: Manager) -> list[web.RouteDef]:
    handlers = _Handlers(manager)
    return [
        web.post(f"{API}/migrations", handlers.migrations),
        web.post(f"{API}/interconnect/halves/vm", handlers.vm),
        web.post(f"{API}/interconnect/halves/{{end}}/{{migration}}/{{verb}}", handlers.half),
    ]


class _Handlers:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._service = manager.migrations

    async def migrations(self, request: web.Request) -> web.Response:
        actions = {"validate": self._validate, "start": self._start, "query": self._query, "cancel": self._cancel}
        action = actions.get(request.query.get("action", ""))
        if action is None:
            raise ApiFault(400, "Invalid action", f"`action` must be one of {', '.join(actions)}")
        return await action(request)

    async def _validate(self, request: web.Request) -> web.Response:
        answers = []
        for wanted in await _inputs(request):
            findings = await self._service.validate(wanted)
            answers.append({"input": wanted.model_dump(), "validationInfo": _validation(findings)})
        return plain({"migrations": answers})

    async def _start(self, request: web.Request) -> web.Response:
        wanted = await _inputs(request)
        for asked in wanted if len(wanted) > 1 else []:  # all or none
            findings = await self._service.validate(asked)
            if findings.errors:
                errors = [{"message": text} for text in findings.errors]
                raise ApiFault(400, "Validation failed", "; ".join(findings.errors), errors)
        started = [await self._service.begin(asked, request[SESSION]) for asked in wanted]
        return plain(
            {"migrations": [{"migrationId": document.id, "input": document.input.model_dump()} for document in started]}
        )

    async def _query(self, request: web.Request) -> web.Response:
        chosen = ((await body(request)).get("filter") or {}).get("migrationId")
        if isinstance(chosen, str):
            chosen = [chosen]
        if chosen is not None and not (isinstance(chosen, list) and all(isinstance(item, str) for item in chosen)):
            raise ApiFault(400, "Invalid request", "`filter.migrationId` must be an id or a list of ids")
        documents = await (self._service.all() if chosen is None else self._service.known(chosen))
        items = [self._shape(document) for document in documents]
        # Older clients read `rows`, others `items`.
        return plain({"items": items, "rows": items})

    async def _cancel(self, request: web.Request) -> web.Response:
        asked = (await body(request)).get("migrations")
        ids = [item.get("migrationId") for item in asked if isinstance(item, dict)] if isinstance(asked, list) else []
        if not ids or not all(isinstance(item, str) for item in ids):
            raise ApiFault(400, "Invalid request", "`migrations` must be a list of objects with `migrationId`")
        canceled = [await self._service.cancel(str(item)) for item in ids]
        return plain({"migrations": [{"migrationId": doc.id, "state": doc.state} for doc in canceled]})

    async def vm(self, request: web.Request) -> web.Response:
        caller_peer(request)
        facts = await self._manager.vcenter.run(vm_facts, str((await body(request)).get("vm", "")))
        return data({"vm": facts.model_dump() if facts else None})

    async def half(self, request: web.Request) -> web.Response:
        caller_peer(request)
        info = request.match_info
        match info["end"]:
            case "source":
                half: Any = self._service.local_source
            case "target":
                half = self._service.local_target
            case other:
                raise ApiFault(404, "Not found", f"a migration has a source and a target, no {other!r}")
        return data(await perform(half, info["verb"], info["migration"], await body(request)))

    def _shape(self, document: Migration) -> dict[str, Any]:
        progress = self._service.progress(document)
        end = document.ended or time.time()
        elapsed = end - document.created
        percent = progress.percent
        running = document.state not in FINAL_STATES
        left = elapsed * (100 - percent) / percent if running and percent else None
        return {
            "migrationId": document.id,
            "migrationInfo": {
                "migrationType": document.input.migrationType,
                "entityDetails": {
                    "entityId": document.input.entityDetails.entityId,
                    "entityName": document.vm_name,
                },
                "source": document.input.source.model_dump(),
                "destination": document.input.destination.model_dump(),
                "message": document.error,
                "warnings": document.warnings,
                "progressDetails": {
                    "state": document.step,
                    "phase": progress.phase,
                    "progressPercentage": percent,
                    "diskTotalBytes": progress.disk_total,
                    "diskCopyBytes": progress.disk_done,
                    "diskBytes": progress.disks,
                    "memoryTotalBytes": progress.memory_total,
                    "memoryCopyBytes": progress.memory_done,
                    "rate": progress.rate,
                    "dirtyRate": progress.dirty_rate,
                    "estimatedSecondsLeft": left,
                    "silenceMs": progress.downtime_ms,
                },
            },
            "jobInfo": {
                "state": document.state,
                "username": document.username,
                "creationDate": int(document.created * 1000),
                "lastUpdated": int(document.updated * 1000),
                "endDate": int(document.ended * 1000),
                "elapsedSeconds": elapsed,
            },
        }


async def _inputs(request: web.Request) -> list[MigrationInput]:
    asked = (await body(request)).get("migrations")
    if not isinstance(asked, list) or not asked:
        raise ApiFault(400, "Invalid request", "`migrations` must be a list with at least one `input`")
    inputs = []
    for item in asked:
        if not isinstance(item, dict) or not isinstance(item.get("input"), dict):
            raise ApiFault(400, "Invalid request", "each of `migrations` needs an `input` object")
        inputs.append(MigrationInput.model_validate(item["input"]))
    return inputs


def _validation(findings: Findings) -> dict[str, Any]:
    return {
        "validationResult": {
            "errors": [{"message": text} for text in findings.errors] or None,
            "warnings": [{"message": text} for text in findings.warnings] or None,
        }
    }
