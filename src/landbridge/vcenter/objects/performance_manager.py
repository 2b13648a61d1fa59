"""PerformanceManager: the counters hosts and VMs have now. There is no history: only the current sample is served."""

import datetime as dt
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from landbridge.vcenter.calls import Call
from landbridge.vcenter.managed import Entity, Managed

if TYPE_CHECKING:
    from landbridge.vcenter.inventory import Inventory

_Manager = vim.PerformanceManager
_INTERVAL = 20  # seconds, vSphere's real-time interval
_FIELDS = {
    # Counter id as vCenter numbers it: group, name, unit, and where quickStats has it for VMs and hosts.
    6: ("cpu", "usagemhz", "megaHertz", "overallCpuUsage", "overallCpuUsage"),
    98: ("mem", "consumed", "kiloBytes", "hostMemoryUsage", "overallMemoryUsage"),
    155: ("sys", "uptime", "second", "uptimeSeconds", "uptime"),
}
_MIB_TO_KIB = {98}


class PerformanceManager(Managed):
    kind = _Manager
    durable = False

    def __init__(self, inventory: "Inventory", moid: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(inventory, moid, facts)
        self.lazy("perfCounter", lambda: [_counter(number) for number in _FIELDS])
        self.set(historicalInterval=[])

    async def query_perf_counter(self, call: Call, counter_id: list[int]) -> list[Any]:
        for number in counter_id:
            _check(number, "counterId")
        return [_counter(number) for number in counter_id]

    async def query_perf_counter_by_level(self, call: Call, level: int) -> list[Any]:
        return [_counter(number) for number in _FIELDS if level >= 1]

    async def query_perf_provider_summary(self, call: Call, entity: Any) -> Any:
        self._provider(entity)
        return _Manager.ProviderSummary(
            entity=entity, currentSupported=True, summarySupported=False, refreshRate=_INTERVAL
        )

    async def query_available_perf_metric(
        self, call: Call, entity: Any, begin_time: Any = None, end_time: Any = None, interval_id: int | None = None
    ) -> list[Any]:
        provider = self._provider(entity)
        if interval_id not in (None, _INTERVAL):
            return []
        return [
            _Manager.MetricId(counterId=number, instance="")
            for number in _FIELDS
            if _value(provider, number) is not None
        ]

    async def query_perf(self, call: Call, query_spec: list[Any]) -> list[Any]:
        return [found for spec in query_spec if (found := self._sample(spec)) is not None]

    # -- inside -------------------------------------------------------------------------------------------

    def _sample(self, spec: Any) -> Any:
        provider = self._provider(spec.entity)
        if spec.intervalId not in (None, _INTERVAL):
            return None
        wanted = [metric.counterId for metric in spec.metricId if metric.instance in ("", "*")]
        if not spec.metricId:
            wanted = list(_FIELDS)
        for number in wanted:
            _check(number, "metricId")
        values = {number: value for number in wanted if (value := _value(provider, number)) is not None}
        if not values:
            return None
        now = dt.datetime.now(dt.UTC)
        ids = {number: _Manager.MetricId(counterId=number, instance="") for number in values}
        if spec.format == "csv":
            series = [_Manager.MetricSeriesCSV(id=ids[number], value=str(value)) for number, value in values.items()]
            stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
            return _Manager.EntityMetricCSV(entity=spec.entity, sampleInfoCSV=f"{_INTERVAL},{stamp}", value=series)
        return _Manager.EntityMetric(
            entity=spec.entity,
            sampleInfo=[_Manager.SampleInfo(timestamp=now, interval=_INTERVAL)],
            value=[_Manager.IntSeries(id=ids[number], value=[value]) for number, value in values.items()],
        )

    def _provider(self, ref: Any) -> Entity:
        entity: Entity = self.inventory.get(ref)
        if not issubclass(entity.kind, vim.VirtualMachine | vim.HostSystem):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="entity", msg=f"{entity.name} has no counters: only hosts and VMs have."
            )
        return entity


def _value(entity: Entity, number: int) -> int | None:
    quick = getattr(entity.value("summary"), "quickStats", None)
    field = _FIELDS[number][3 if issubclass(entity.kind, vim.VirtualMachine) else 4]
    value = getattr(quick, field, None)
    if value is None:
        return None
    return int(value) * 1024 if number in _MIB_TO_KIB else int(value)


def _check(number: int, field: str) -> None:
    if number not in _FIELDS:
        raise vmodl.fault.InvalidArgument(invalidProperty=field, msg=f"There is no performance counter {number}.")


def _counter(number: int) -> Any:
    group, name, unit = _FIELDS[number][:3]

    def described(key: str) -> Any:
        return vim.ElementDescription(key=key, label=key, summary=key)

    return _Manager.CounterInfo(
        key=number,
        nameInfo=described(name),
        groupInfo=described(group),
        unitInfo=described(unit),
        rollupType="latest" if name == "uptime" else "average",
        statsType="absolute",
        level=1,
        perDeviceLevel=3,
    )
