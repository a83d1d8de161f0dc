"""What can be told about several processes in one; tests/integration/hosts_test.py starts two."""

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.parallel import hosts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "--coordinator missing"),
        (("host:1", None, None), "--num_processes and --process_id missing"),
        (("host", 2, 0), "--coordinator='host' must be HOST:PORT, such as"),
        (("host:1", 2, 2), "--process_id=2 must be from 0 to 1"),
    ],
)
def test_names_what_is_wrong_before_it_waits(given, message):
    with pytest.raises(UserError, match=message):
        hosts.init_distributed(*given, timeout_seconds=1)


def test_a_port_in_use_is_worth_another_start(monkeypatch, capsys):
    def initialize(*arguments, **settings):
        raise RuntimeError("Failed to start RPC server")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", initialize)
    with pytest.raises(SystemExit) as ended:
        hosts.init_distributed("host:1", 2, 0, timeout_seconds=60)
    assert ended.value.code == hosts.TRY_AGAIN
    assert "at --coordinator=host:1: Failed to start RPC server" in capsys.readouterr().err


def test_alone_there_is_nothing_to_join_and_nobody_to_disagree_with(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    hosts.init_distributed(timeout_seconds=1)
    assert hosts.is_primary()
    with pytest.raises(UserError, match=r"^mine$"), hosts.check_hosts_agree():
        raise UserError("mine")


def test_other_errors_are_told_to_the_others_and_stay_what_they_are(monkeypatch):
    told = []

    def tell(facts, error):
        told.append(error)
        raise UserError("1 of 2 processes cannot go on.")

    monkeypatch.setattr(hosts, "_require_agreement", tell)
    with pytest.raises(OSError, match="disk gone"), hosts.check_hosts_agree():
        raise OSError("disk gone")
    assert told == ["OSError: disk gone"]


def say(**facts):
    return {"host": "a", "facts": facts, "error": ""}


def test_the_odd_process_is_named_and_process_0_decides_a_tie():
    said = [say(seed="0", code="x"), say(seed="0", code="y"), say(seed="1", code="y")]
    assert hosts._differences(said) == [
        "seed is 1 on process 2 (a), and 0 on others",
        "code is x on process 0 (a), and y on others",
    ]
    assert hosts._differences(said[:2]) == ["code is y on process 1 (a), and x on others"]
    assert hosts._differences([say(seed="0"), say()]) == [
        "seed is (absent) on process 1 (a), and 0 on others"
    ]


def test_every_value_of_a_config_is_compared():
    config = {"run": {"seed": 0}, "method": {"memory": {"size": 8}, "name": "a"}}
    assert hosts.flatten(config) == {
        "config.run.seed": "0",
        "config.method.memory.size": "8",
        "config.method.name": "'a'",
    }


def test_the_code_has_a_version():
    assert hosts.code_version() == hosts.code_version()
    assert len(hosts.code_version()) == 16
