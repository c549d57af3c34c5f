"""What the figure about the extender sends is what kube-scheduler sends."""

import msgspec

from bench.extender import FEW, SHAPES, requests_over
from bench.extender_load import node_names


def test_each_request_names_every_node_once_and_says_its_own_length() -> None:
    names = node_names(FEW)
    requests = requests_over(names)
    assert len(requests) == len(SHAPES)
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        asked = msgspec.json.decode(body)
        assert sorted(asked["NodeNames"]) == names
        assert asked["Nodes"] is None


def test_pods_of_every_shape_are_asked_about() -> None:
    asked = [
        msgspec.json.decode(each.partition(b"\r\n\r\n")[2]) for each in requests_over(["node"])
    ]
    gpus = [
        int(each["Pod"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for each in asked
    ]
    assert gpus == list(SHAPES)
