"""What the probe concludes from what it saw."""

from landbridge.lab.probe import Counter, Findings, findings_from


def test_a_counter_that_steps_back_is_noticed() -> None:
    counter = Counter()
    for value in (5, 6, 6, 9, 8, 10):
        counter.saw(value)
    assert counter == Counter(first=5, last=10, backwards=1, largest_step=3)


def test_findings_survive_being_told_as_json() -> None:
    findings = Findings(sent=3, udp=Counter(1, 2, 0, 1), tcp_same_connection=True)
    assert findings_from({**vars(findings), "udp": vars(findings.udp), "tcp": vars(findings.tcp)}) == findings
