"""Any pods on two nodes, and any rules for them."""

import msgspec
from hypothesis import strategies as st

from aggregator.policy.drain.pods import Owner, Pod
from aggregator.policy.drain.rules import DrainRule, DrainRules, Mode
from tests.fake_workloads import JOB, WEB, pod
from tests.support import START

DAEMON = Owner("apps/v1", "DaemonSet", "exporter", "ds-uid")
BERT = {"jobset.sigs.k8s.io/jobset-name": "bert"}


def named(one: Pod, number: int) -> Pod:
    """The same pod under a name, and a UID, of its own."""
    return msgspec.structs.replace(one, name=f"p{number}", uid=f"uid-p{number}")


gang_labels = st.sampled_from([{}, BERT, {"training.kubeflow.org/job-name": "gpt"}])
roles = st.sampled_from([{}, {"role": "a"}, {"role": "b"}])
some_pods = st.lists(
    st.builds(
        lambda gang, role, **fields: pod(labels={**gang, **role}, **fields),
        gang_labels,
        roles,
        namespace=st.sampled_from(["team-a", "team-b", "kube-system"]),
        node=st.sampled_from(["n1", "n1", "n2"]),
        owner=st.sampled_from([None, WEB, JOB, DAEMON]),
        mirror=st.booleans(),
        empty_dir=st.booleans(),
        phase=st.sampled_from(["Running", "Pending", "Succeeded", "Failed"]),
        deleting_since_seconds=st.sampled_from([None, None, START]),
        devices=st.integers(0, 8),
    ),
    max_size=8,
).map(lambda pods: [named(each, number) for number, each in enumerate(pods)])
some_rules = st.lists(
    st.builds(
        lambda labels, mode, empty_dir, unmanaged: DrainRule(
            labels=labels,
            mode=mode,
            deadline_seconds=60.0 if mode in (Mode.WAIT, Mode.CHECKPOINT) else None,
            empty_dir=empty_dir,
            unmanaged=unmanaged,
        ),
        roles,
        st.sampled_from(list(Mode)),
        st.sampled_from(["refuse", "evict"]),
        st.sampled_from(["refuse", "evict"]),
    ),
    max_size=3,
).map(lambda rules: DrainRules(rules=tuple(rules)))
