"""What the kernel's packet filter does with the frames of an extended network: one nftables table a network.

A gate that is shut while a loop is possible; frames that end at a bridge (BPDUs and the like) dropped; broadcasts and
multicasts limited; addresses that come from both sides noticed; TCP's MSS fitted to the path.
"""

import json
from dataclasses import dataclass
from string import Template
from typing import Any

from landbridge.hcx.ne.commands import CommandError, run
from landbridge.hcx.ne.model import Forwarding

# IEEE's for local experiments: the beacons'.
BEACON_ETHERTYPE = 0x88B5
# A broadcast domain of a thousand busy hosts stays below; a loop reaches it at once.
_STORM_LIMIT = 1000  # frames a second, each direction
_MEMORY = 5  # seconds an address counts as seen on a side
_IPV4_AND_TCP = 40  # bytes, without options
_IPV6_AND_TCP = 60

_TABLE = Template("""\
table bridge $table
delete table bridge $table
table bridge $table {
  counter storm { }
  counter control { }
  set seen_local { type ether_addr; flags dynamic,timeout; timeout ${memory}s; size 65535; }
  set seen_remote { type ether_addr; flags dynamic,timeout; timeout ${memory}s; size 65535; }
  set came_local { type ether_addr; flags dynamic,timeout; timeout ${memory}s; size 4096; }
  set came_remote { type ether_addr; flags dynamic,timeout; timeout ${memory}s; size 4096; }
  set flapping { type ether_addr; flags dynamic,timeout; timeout ${memory}s; size 4096; }
  chain gate { $gate }
  chain local {
    $multicast limit rate over $storm/second burst $storm packets counter name storm drop
    ether saddr @seen_remote update @came_local { ether saddr }
    ether saddr @came_remote ether saddr @seen_remote update @flapping { ether saddr }
    update @seen_local { ether saddr }
  }
  chain remote {
    $multicast limit rate over $storm/second burst $storm packets counter name storm drop
    ether saddr @seen_local update @came_remote { ether saddr }
    ether saddr @came_local ether saddr @seen_local update @flapping { ether saddr }
    update @seen_remote { ether saddr }
  }
  chain arriving {
    type filter hook prerouting priority -200; policy accept;
    iifname != { "$leg", "$vxlan" } accept
    ether type $beacon drop
    ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name control drop
    ether daddr { 01:00:0c:cc:cc:cc, 01:00:0c:cc:cc:cd } counter name control drop
    jump gate
    iifname "$leg" goto local
    goto remote
  }
  chain passing {
    type filter hook forward priority 0; policy accept;
    iifname { "$leg", "$vxlan" } ether type ip tcp flags & (syn | rst) == syn tcp option maxseg size set $mss4
    iifname { "$leg", "$vxlan" } ether type ip6 tcp flags & (syn | rst) == syn tcp option maxseg size set $mss6
  }
}
""")


@dataclass(frozen=True)
class Dropped:
    """Frames dropped since the rules were made."""

    storm: int = 0
    control: int = 0


class Rules:
    """The table of one network."""

    def __init__(self, vni: int, leg: str, vxlan: str) -> None:
        self.table = f"ext_{vni}"
        self._leg = leg
        self._vxlan = vxlan

    async def forwarding(self) -> bool | None:
        """Whether the gate is open; None if there are no rules yet."""
        try:
            answer = await self._list("chain", "gate")
        except CommandError:
            return None
        return not any("rule" in item for item in answer)

    async def install(self, *, forwarding: bool, mtu: int) -> None:
        """Replace the table in one step. `mtu`: the largest IP packet that passes unfragmented."""
        text = _TABLE.substitute(
            table=self.table,
            leg=self._leg,
            vxlan=self._vxlan,
            gate="" if forwarding else "drop;",
            memory=_MEMORY,
            multicast="ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00",
            storm=_STORM_LIMIT,
            beacon=f"{BEACON_ETHERTYPE:#x}",
            mss4=mtu - _IPV4_AND_TCP,
            mss6=mtu - _IPV6_AND_TCP,
        )
        await run("nft", "-f", "-", content=text)

    async def set_gate(self, state: Forwarding) -> None:
        """Let frames in, or none."""
        shut = "" if state == Forwarding.FORWARDING else f"\nadd rule bridge {self.table} gate drop"
        await run("nft", "-f", "-", content=f"flush chain bridge {self.table} gate{shut}\n")

    async def flapping(self) -> list[str]:
        """Addresses that keep coming from both sides."""
        answer = await self._list("set", "flapping")
        found = []
        for item in answer:
            for element in item.get("set", {}).get("elem", []):
                value = element["elem"]["val"] if isinstance(element, dict) else element
                found.append(str(value))
        return found

    async def dropped(self) -> Dropped:
        answer = json.loads(await run("nft", "-j", "list", "counters", "table", "bridge", self.table))["nftables"]
        counted = {item["counter"]["name"]: int(item["counter"]["packets"]) for item in answer if "counter" in item}
        return Dropped(counted.get("storm", 0), counted.get("control", 0))

    async def remove(self) -> None:
        await run("nft", "-f", "-", content=f"table bridge {self.table}\ndelete table bridge {self.table}\n")

    async def _list(self, kind: str, name: str) -> list[dict[str, Any]]:
        answer = json.loads(await run("nft", "-j", "list", kind, "bridge", self.table, name))
        return list(answer["nftables"])
