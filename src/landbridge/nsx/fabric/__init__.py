"""What the intents apply to: vCenter's hosts, VMs and port groups, and the hosts' agents as transport nodes."""
