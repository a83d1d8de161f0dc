"""What a watch does about each state that it finds."""

import shlex

import pytest

from launch.tpu import push, watch

PLACE = ("slice1", "--zone=us-west4-a", "--project=my-project")
OFFER = ("--type=v5litepod-8", "--spot")
TRAIN = ("--", "train", "--config=configs/simclr_imagenet.py:v2_r50_1x", "--workdir=gs://b/run")
WATCH = ("watch", *PLACE, *OFFER, *TRAIN)
ACTIVE = {"queue": ["ACTIVE"], "node": ["READY"]}
NOT_FOUND = [1, "ERROR: (gcloud.describe) NOT_FOUND: Resource 'slice1' was not found"]
QUOTA = [1, "RESOURCE_EXHAUSTED: Quota limit TPUV5sPreemptible has been exceeded. Limit: 8"]
SSH_DOWN = [255, "ssh: connect to host 34.1.2.3 port 22: Connection refused"]


def state(name, code=b"code", arguments=TRAIN[1:]):
    """What the worker says, of this watch's run if nothing else is given."""
    if name in ("absent", "installed"):
        return f"simclr_jax state: {name} "
    return f"simclr_jax state: {name} {push.identity(code, arguments)}"


LOOKS = ("queue", "node", "state")
BEGIN = ["scp", "stop", "install", "start"]


def test_watch_takes_a_run_from_nothing_to_its_end(cloud):
    cloud.answer(
        queue=[NOT_FOUND, "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        node=["CREATING", "READY"],
        state=[[127, "no such file"], state("running"), state("exited 0")],
    )
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == ["create", *BEGIN]
    assert set(cloud.clock.pauses) == {watch.POLL_SECONDS}


@pytest.mark.parametrize("code", [0, 1, 2])
def test_watch_returns_what_the_run_returned(cloud, code):
    cloud.answer(**ACTIVE, state=[state("running"), state(f"exited {code}")])
    assert cloud.main(*WATCH) == code
    assert cloud.kinds(*LOOKS) == []


@pytest.mark.parametrize(
    "lost",
    [
        {"queue": ["ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE"], "node": ["READY"]},
        {"queue": ["ACTIVE"], "node": ["READY", "PREEMPTED", "READY"]},
        {"queue": ["ACTIVE"], "node": ["READY", "TERMINATED", "READY"]},
        {"queue": ["ACTIVE", "FAILED", "ACTIVE"], "node": ["READY"]},
    ],
)
def test_watch_recreates_a_lost_slice_and_resumes(cloud, lost):
    cloud.answer(**lost, state=[state("running"), [127, "no such file"], state("exited 0")])
    assert cloud.main(*WATCH) == 0
    assert [kind for kind in cloud.kinds(*LOOKS) if kind != "delete"] == ["create", *BEGIN]
    starts = [call["command"] for call in cloud.calls if call["kind"] == "start"]
    assert starts == [shlex.join(["bash", "simclr_jax_worker.sh", "start", *TRAIN[1:]])]


@pytest.mark.parametrize("ended", ["exited 143", "exited 137", "exited 134", "exited 75", "dead"])
def test_watch_resumes_a_run_that_was_stopped_on_a_slice_that_stays(cloud, ended):
    cloud.answer(**ACTIVE, state=[state(ended), state("running"), state("exited 0")])
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == BEGIN


@pytest.mark.parametrize(
    "lost",
    [{"queue": ["ACTIVE", "SUSPENDED", "ACTIVE"]}, {"node": ["READY", "PREEMPTED", "READY"]}],
)
def test_watch_does_not_take_a_failure_of_a_slice_for_one_of_the_run(cloud, lost):
    failed, done = state("exited 1"), state("exited 0")
    cloud.answer(**ACTIVE | lost, state=[failed, [127, "no such file"], done])
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == ["delete", "create", *BEGIN]


@pytest.mark.parametrize("end", ["exited 134", "dead"])
def test_watch_gives_up_a_run_that_always_ends_soon(cloud, capsys, end):
    cloud.answer(**ACTIVE, state=[state("running"), state(end)])
    assert cloud.main(*WATCH) == 1
    assert cloud.kinds(*LOOKS) == BEGIN * 2
    assert "3 times in a row" in capsys.readouterr().err


def test_watch_does_not_give_up_runs_that_end_soon_with_their_slices(cloud):
    soon, new = state("exited 143"), [127, "no such file"]
    cloud.answer(
        queue=["ACTIVE"],
        node=["READY", "READY", "PREEMPTED", "READY"],
        state=[soon, soon, new, soon, state("exited 0")],
    )
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == [*BEGIN * 2, "delete", "create", *BEGIN * 2]


def test_watch_keeps_up_a_run_that_ends_often_but_not_soon(cloud, monkeypatch):
    monkeypatch.setattr(watch, "SHORT_LOOKS", 2)
    lasting = [state("running")] * watch.SHORT_LOOKS
    lost = [state("exited 134")]
    cloud.answer(**ACTIVE, state=[*lost * 2, *lasting, *lost, *lost * 2, state("exited 0")])
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == BEGIN * 5


def test_watch_tries_again_with_growing_pauses_and_then_gives_up(cloud, capsys):
    cloud.answer(queue=[NOT_FOUND], create=[QUOTA])
    assert cloud.main(*WATCH) == 1
    assert cloud.kinds(*LOOKS) == ["create"] * watch.MAX_FAILURES
    assert cloud.clock.pauses == [30, 60, 120, 240, 480]
    assert "Quota limit" in capsys.readouterr().err


def test_watch_survives_ssh_failures_that_pass(cloud):
    cloud.answer(
        **ACTIVE, state=[SSH_DOWN, SSH_DOWN, state("running"), SSH_DOWN, state("exited 0")]
    )
    assert cloud.main(*WATCH) == 0
    assert cloud.clock.pauses == [30, 60, watch.POLL_SECONDS, 30]


def test_watch_does_not_repeat_what_no_repetition_mends(cloud):
    cloud.answer(queue=[[1, "PERMISSION_DENIED: Permission 'tpu.queuedResources.get' denied"]])
    assert cloud.main(*WATCH) == 1
    assert cloud.kinds() == ["queue"]


@pytest.mark.parametrize(
    "message", ["PERMISSION_DENIED: Permission denied", "SSH Key is not present in the SSH agent."]
)
def test_watch_does_not_repeat_a_push_that_is_not_permitted(cloud, message):
    cloud.answer(**ACTIVE, state=[state("absent")], scp=[[1, message]])
    assert cloud.main(*WATCH) == 1
    assert cloud.kinds(*LOOKS) == ["scp"]


def test_watch_gives_up_after_max_restarts(cloud, capsys):
    cloud.answer(queue=["SUSPENDED"])
    assert cloud.main(*WATCH[:2], "--max-restarts=3", *WATCH[2:]) == 1
    assert cloud.kinds(*LOOKS) == ["delete", "create"] * 3
    assert "--max-restarts=3" in capsys.readouterr().err
    assert [seconds for seconds in cloud.clock.pauses if seconds != watch.POLL_SECONDS] == [30]


@pytest.mark.parametrize("failing", BEGIN)
def test_watch_begins_anew_on_all_workers_what_reached_some(cloud, failing):
    cloud.answer(
        **ACTIVE,
        state=[state("absent"), state("running"), state("running"), state("exited 0")],
        **{failing: [SSH_DOWN, ""]},
    )
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == BEGIN[: BEGIN.index(failing) + 1] + BEGIN


def test_watch_that_comes_again_knows_its_run(cloud):
    cloud.answer(**ACTIVE, state=[state("running"), state("exited 0")])
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS) == []


OTHERS = [{"code": b"changed"}, {"arguments": [*TRAIN[1:], "--config.run.seed=1"]}]


@pytest.mark.parametrize("other", OTHERS)
def test_watch_refuses_a_slice_where_another_run_is_under_way(cloud, capsys, other):
    cloud.answer(**ACTIVE, state=[state("running", **other)])
    assert cloud.main(*WATCH) == 1
    assert "slice1 is running something else" in capsys.readouterr().err
    assert cloud.kinds(*LOOKS) == []


@pytest.mark.parametrize("other", OTHERS)
def test_watch_begins_its_run_where_another_has_ended(cloud, other):
    cloud.answer(**ACTIVE, state=[state("exited 0", **other), state("running"), state("exited 2")])
    assert cloud.main(*WATCH) == 2
    assert cloud.kinds(*LOOKS) == BEGIN


def test_watch_brings_the_code_that_it_began_with_to_each_slice(cloud, monkeypatch):
    packed = iter([b"code"])
    monkeypatch.setattr(push, "pack", lambda: next(packed))
    sent = []
    send = push.send
    monkeypatch.setattr(push, "send", lambda *a, **k: (sent.append(a[2]), send(*a, **k)))
    cloud.answer(
        **ACTIVE, state=[state("absent"), state("dead"), state("running"), state("exited 0")]
    )
    assert cloud.main(*WATCH) == 0
    assert sent == [b"code", b"code"]


@pytest.mark.parametrize("before", [[], ["ACTIVE"], [NOT_FOUND], [NOT_FOUND, "ACTIVE", "DELETING"]])
def test_watch_ends_when_somebody_deletes_its_slice(cloud, capsys, before):
    cloud.answer(queue=[*before, "ACTIVE", NOT_FOUND], node=["READY"], state=[state("running")])
    assert cloud.main(*WATCH) == 1
    assert "Somebody deleted slice1" in capsys.readouterr().err
    assert cloud.kinds(*LOOKS, *BEGIN) == ["create"] * (NOT_FOUND in before)


def test_watch_creates_what_it_deleted_itself_though_gcloud_failed_in_between(cloud):
    cloud.answer(
        queue=["SUSPENDED", "DELETING", NOT_FOUND, NOT_FOUND, "ACTIVE"],
        node=["READY"],
        state=[state("exited 0")],
        delete=[[1, "no answer"]],
        create=[QUOTA, ""],
    )
    assert cloud.main(*WATCH) == 0
    assert cloud.kinds(*LOOKS, *BEGIN) == ["delete", "create", "create"]


@pytest.mark.parametrize("kind", ["v5litepod-16", ""])
def test_watch_refuses_a_slice_of_another_type(cloud, capsys, kind):
    cloud.answer(queue=[f"SUSPENDED\t{kind}\tsimclr_jax"])
    assert cloud.main(*WATCH) == 1
    assert f"as {kind or 'something else'} and not as v5litepod-8" in capsys.readouterr().err
    assert cloud.kinds() == ["queue"]


@pytest.mark.parametrize("lost", [("SUSPENDED", "READY"), ("ACTIVE", "PREEMPTED")])
def test_watch_uses_but_does_not_delete_what_others_asked_for(cloud, capsys, lost):
    request, node = lost
    cloud.answer(
        queue=["ACTIVE\tv5litepod-8\t", f"{request}\tv5litepod-8\tsomebody"],
        node=["READY", node],
        state=[state("absent")],
    )
    assert cloud.main(*WATCH) == 1
    assert cloud.kinds(*LOOKS) == BEGIN
    assert "was not asked for by this program" in capsys.readouterr().err


def test_watch_leaves_a_slice_alone_that_somebody_stopped(cloud, capsys):
    cloud.answer(queue=["ACTIVE"], node=["STOPPED"])
    assert cloud.main(*WATCH) == 1
    assert "start or delete them" in capsys.readouterr().err
    assert cloud.kinds(*LOOKS) == []
