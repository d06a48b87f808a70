"""docs/operators.md: its commands, units and playbook do what the page says."""

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import credential_db
from conftest import PASSPHRASE
from vaults import STAMPS, Vault, keys, upgraded

CHECKOUT = Path(__file__).parents[1]
GUIDE = CHECKOUT / "docs" / "operators.md"
PROGRAM = "/opt/credential-db/bin/credential-db"

needs_ansible = pytest.mark.skipif(
    importlib.util.find_spec("ansible") is None,
    reason="the playbook is tried if ansible-core is installed: pip install -e '.[test]'",
)
needs_litestream = pytest.mark.skipif(
    shutil.which("litestream") is None, reason="needs https://litestream.io"
)


def printed(mark: str) -> str:
    """What the guide prints below a mark."""
    found = re.search(rf"^<!-- {mark} -->\n```\w+\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    assert found, f"{GUIDE.name} prints nothing below <!-- {mark} -->"
    return found[1]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """``credential-db`` of this checkout, in a directory that has nothing else."""
    script = tmp_path / "bin" / "credential-db"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m credential_db "$@"\n')
    script.chmod(0o755)
    return script


def environment(program: Path, more: Mapping[str, str]) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CREDENTIAL_DB")}
    path = os.pathsep.join((str(program.parent), inherited["PATH"]))
    return {**inherited, "PATH": path, **more}


def shell(commands: str, directory: Path, variables: Mapping[str, str]) -> str:
    """Run the commands together. ``status`` may tell that there is something to upgrade."""
    script = re.sub(r"^(credential-db status .*)$", r"\1 || [ $? = 3 ]", commands, flags=re.M)
    result = subprocess.run(
        ["sh", "-euc", script],
        cwd=directory,
        env=dict(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{GUIDE.name}:\n{commands}\n{result.stdout}{result.stderr}"
    return result.stderr


def test_a_backup_can_be_restored(vault: Vault, program: Path) -> None:
    vault.create(0, content=keys(3, rsa_keys=0), journal_mode="wal")
    vault.path.chmod(0o640)
    before = vault.content()
    variables = environment(program, vault.environment)
    directory = vault.path.parent
    shell(printed("back up"), directory, variables)
    assert stat.S_IMODE((directory / "credentials.backup.db").stat().st_mode) == 0o600
    after = vault.content()

    # The worst that may be found: the vault is destroyed, its log is that of another file.
    vault.path.write_bytes(b"broken " * 1000)
    vault.path.with_name("credentials.db-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(5000))
    shell(printed("restore"), directory, variables)
    assert vault.stamps() == STAMPS
    assert vault.content() == after == upgraded(before, 0)
    assert stat.S_IMODE(vault.path.stat().st_mode) == 0o640, "the mode is as it was"
    vault.check_integrity()
    kept = {file.name for file in (directory / "broken").iterdir()}
    assert {"credentials.db", "credentials.db-wal"} <= kept


@pytest.mark.parametrize("mark", ["unit", "cron", "container"])
def test_what_runs_unattended(tmp_path: Path, program: Path, mark: str) -> None:
    vault = Vault(tmp_path / "credentials.db", PASSPHRASE if mark == "unit" else None)
    vault.create(1)
    secret = tmp_path / "passphrase"
    secret.write_text(f"{PASSPHRASE}\n")
    secret.chmod(0o400)  # as systemd's LoadCredential= does it
    text = printed(mark)
    variables = {}
    if mark == "unit":
        unit: Any = configparser.RawConfigParser(strict=False)
        unit.read_string(text)
        command = unit["Service"]["ExecStartPre"]
        assert "LoadCredential=passphrase:" in text
        assert "Environment=CREDENTIAL_DB_PASSPHRASE_FILE=%d/passphrase\n" in text
        assert "Environment=CREDENTIAL_DB=/var/lib/credentials/credentials.db\n" in text
        variables = {"CREDENTIAL_DB_PASSPHRASE_FILE": str(secret), "CREDENTIAL_DB": str(vault.path)}
    elif mark == "cron":
        command = text.splitlines()[-1].split(maxsplit=6)[6]
        command = command.replace("/var/lib/credentials", str(tmp_path))
    else:
        before, _, command = text.partition(" IMAGE ")
        assert "-v /srv/credentials:/data " in before, "a directory, and not a file"
        variables["CREDENTIAL_DB"] = str(vault.path)
    command = command.replace(PROGRAM, str(program))
    assert command.split()[1:2] == ["upgrade"]
    for _ in range(2):  # at every start of the host's life
        shell(command, tmp_path, environment(program, variables))
        assert vault.stamps() == STAMPS
        assert len([*tmp_path.glob("credentials.db.v1.*.bak")]) == 1, "one backup, of one upgrade"
    vault.path.unlink()
    with pytest.raises(AssertionError, match="does not exist"):
        shell(command, tmp_path, environment(program, variables))
    assert not vault.path.exists(), "a mistyped path must not become a vault"


@pytest.mark.parametrize("mark", ["many", "parallel"])
def test_many_vaults(tmp_path: Path, program: Path, mark: str) -> None:
    for number in range(3):
        (tmp_path / "tenants" / str(number)).mkdir(parents=True)
        Vault(tmp_path / "tenants" / str(number) / "credentials.db").create(1)
    expected = ["3 vaults: 3 upgraded", "3 vaults: 3 current"]
    for summary in expected:
        output = shell(printed(mark), tmp_path, environment(program, {}))
        assert output.splitlines()[-1] == summary
    assert len([*tmp_path.glob("tenants/*/*.bak")]) == 3


@needs_litestream
def test_a_new_replica_has_no_old_key(plain_vault: Vault, program: Path) -> None:
    plain_vault.create(0, content=keys(1, rsa_keys=0), journal_mode="wal")
    directory = plain_vault.path.parent
    variables = environment(program, {})
    once = next(line for line in printed("litestream").splitlines() if " -once " in line)
    shell(once.replace("replica-v2", "replica-v0"), directory, variables)
    shell(printed("litestream"), directory, variables)
    assert Vault(directory / "restored.db").content() == plain_vault.content()
    # The oldest state that can be restored is the new version already.
    oldest = f"litestream restore -txid {1:016x} -o oldest.db file://{directory}/replica-v2"
    shell(oldest, directory, variables)
    assert Vault(directory / "oldest.db").stamps() == STAMPS


# The playbook


class Play(NamedTuple):
    """What a run of the playbook printed, and its count of what happened on each host."""

    status: int
    output: str
    recap: dict[str, dict[str, int]]

    def hosts(self, what: str) -> set[str]:
        return {host for host, counts in self.recap.items() if counts[what]}


def play(
    program: Path, vaults: Mapping[str, Vault], *options: str, lost: str = "", **shared: object
) -> Play:
    """Run the playbook as the guide prints it, on hosts that are all this one.

    One of them may be lost after the playbook has looked at it.
    """
    directory = program.parent.parent
    hosts: dict[str, dict[str, object]] = {}
    for name, vault in vaults.items():
        secret = vault.path.with_name("passphrase")
        secret.write_text(vault.passphrase or "")
        secret.chmod(0o600)
        variables = {"CREDENTIAL_DB_PASSPHRASE_FILE": str(secret)} if vault.passphrase else {}
        hosts[name] = {"vault_path": str(vault.path), "vault_environment": variables}
    if lost:
        hosts[lost]["ansible_connection"] = "{{ 'ssh' if look is defined else 'local' }}"
        no_way = program.with_name("ssh")
        no_way.write_text("#!/bin/sh\nexit 255\n")
        no_way.chmod(0o755)
        hosts[lost]["ansible_ssh_executable"] = str(no_way)
    shared |= {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "credential_db": str(program),
    }
    inventory = directory / "inventory.yml"  # JSON is YAML
    inventory.write_text(json.dumps({"vaults": {"hosts": hosts, "vars": shared}}))
    settings = directory / "ansible.cfg"  # instead of the user's
    settings.touch()
    more = {
        "HOME": str(directory),
        "ANSIBLE_HOME": str(directory / ".ansible"),
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8",
    }
    tried, done = (shlex.split(line) for line in printed("roll out").splitlines())
    assert tried == [*done, "--check"]
    assert (CHECKOUT / done[2]).exists()
    words = ["-m", "ansible", "playbook", "-i", str(inventory) if vaults else done[2], *done[3:]]
    result = subprocess.run(
        [sys.executable, *words, *options],
        cwd=CHECKOUT,
        env={k: v for k, v in environment(program, more).items() if not k.startswith("COVERAGE")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    recap = {
        host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)}
        for host, counts in re.findall(r"^(\S+) +: (ok=.*)$", result.stdout, re.MULTILINE)
    }
    return Play(result.returncode, result.stdout + result.stderr, recap)


def vaults(directory: Path, *names: str, encrypted: str = "") -> dict[str, Vault]:
    for name in names:
        (directory / name).mkdir()
    passphrases = {encrypted: PASSPHRASE}
    return {n: Vault(directory / n / "credentials.db", passphrases.get(n)) for n in names}


def files(hosts: Mapping[str, Vault]) -> dict[str, dict[str, bytes]]:
    return {name: vault.files() for name, vault in hosts.items()}


@needs_ansible
def test_the_playbook_upgrades_a_fleet(tmp_path: Path, program: Path) -> None:
    hosts = vaults(tmp_path, "v0", "v1", "missing", "current", encrypted="v1")
    for version in range(2):
        hosts[f"v{version}"].create(version, content=keys(2, rsa_keys=0))
    credential_db.upgrade(hosts["current"].path)
    before = {name: hosts[name].content() for name in ("v0", "v1")}
    pem = hosts["v0"].value("SELECT private_pem FROM ssh_keys WHERE id = 2")
    hosts["v0"].execute("UPDATE ssh_keys SET private_pem = x'00' WHERE id = 2")
    found = files(hosts)

    # A host of the first tenth fails: the trial finds that too, and nothing is changed.
    tried = play(program, hosts, "--check", vault_must_exist=False)
    assert tried.status != 0, tried.output
    assert tried.hosts("failed") == {"v0"}, tried.output
    assert "row 2" in tried.output, "the playbook does not show why the upgrade failed"
    assert (tried.hosts("changed"), files(hosts)) == (set(), found), tried.output

    hosts["v0"].execute(("UPDATE ssh_keys SET private_pem = ? WHERE id = 2", (pem,)))
    done = play(program, hosts, vault_must_exist=False)
    assert done.status == 0, done.output
    assert done.hosts("changed") == {"v0", "v1", "missing"}, done.output
    assert files(hosts)["current"] == found["current"]
    assert all(vault.stamps() == STAMPS for vault in hosts.values())
    for name, content in before.items():
        assert hosts[name].content() == upgraded(content, 0 if name == "v0" else 2), name
        (backup,) = tmp_path.glob(f"{name}/*.bak")
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        assert Vault(backup, hosts[name].passphrase).content() == content


@needs_ansible
def test_the_playbook_stops_before_it_changes_anything(tmp_path: Path, program: Path) -> None:
    hosts = vaults(tmp_path, "good", "garbage", "ahead", "unrecognized", "missing", "blocked")
    hosts["good"].create(1)
    hosts["garbage"].path.write_bytes(b"no database " * 100)
    hosts["ahead"].create(2, number=99)
    hosts["unrecognized"].create(0, number=2)
    os.link(hosts["blocked"].create(1).path, tmp_path / "hard link")
    found = files(hosts)
    done = play(program, hosts)
    assert done.status != 0
    assert done.hosts("failed") == {*hosts} - {"good"}, done.output
    assert (done.hosts("changed"), files(hosts)) == (set(), found), done.output
    for reason in ("release knows versions up to", "does not exist", "hard links", "not a SQLite"):
        assert reason in done.output, f"the playbook does not tell why: {reason}"


@needs_ansible
def test_the_playbook_stops_when_a_host_is_lost(tmp_path: Path, program: Path) -> None:
    hosts = vaults(tmp_path, "lost", "other")
    for vault in hosts.values():
        vault.create(1)
    found = files(hosts)
    done = play(program, hosts, lost="lost")
    assert done.status != 0
    assert done.hosts("unreachable") == {"lost"}, done.output
    assert files(hosts) == found, f"the playbook went on without the first tenth:\n{done.output}"
    assert "lost on the way" in done.output


@needs_ansible
def test_the_example_inventory_fits_the_playbook(program: Path) -> None:
    listed = play(program, {}, "--list-hosts")
    assert listed.status == 0, listed.output
    assert "vault-01.example.com" in listed.output
