"""docs/more-than-one-machine.md and the playbook of examples/fleet, tried out."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

import credential_db
from conftest import PASSPHRASE
from vaults import STAMPS, Vault, keys, upgraded

CHECKOUT = Path(__file__).parents[1]
CHAPTER = CHECKOUT / "docs" / "more-than-one-machine.md"

needs_ansible = pytest.mark.skipif(
    importlib.util.find_spec("ansible") is None,
    reason="the playbook is tried where ansible-core is installed: pip install -e '.[test]'",
)
needs_litestream = pytest.mark.skipif(
    shutil.which("litestream") is None,
    reason="the commands for Litestream are tried where it is installed: https://litestream.io",
)


def printed(mark: str) -> str:
    """The commands that the chapter prints behind a mark."""
    found = re.search(rf"^<!-- {mark} -->\n```sh\n(.*?)^```$", CHAPTER.read_text(), re.M | re.S)
    assert found, f"{CHAPTER.name} has no commands behind <!-- {mark} -->"
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


# The playbook


class Play(NamedTuple):
    """What a run of the playbook printed, and its count of what happened on each host."""

    status: int
    output: str
    recap: dict[str, dict[str, int]]

    def hosts(self, what: str) -> set[str]:
        return {host for host, counts in self.recap.items() if counts[what]}


class Fleet:
    """Hosts that are all this one, each with a vault of its own."""

    def __init__(
        self,
        directory: Path,
        program: Path,
        vaults: Mapping[str, Vault],
        lost: str = "",
        **variables: object,
    ) -> None:
        """The host that is ``lost`` can be reached for the first look only."""
        self.vaults = vaults
        home = directory / "home"
        home.mkdir()
        hosts: dict[str, dict[str, object]] = {}
        for name, vault in vaults.items():
            hosts[name] = {"vault_path": str(vault.path)}
            if vault.passphrase:
                secret = vault.path.with_name("passphrase")
                secret.write_text(vault.passphrase)
                secret.chmod(0o600)
                hosts[name]["vault_environment"] = {"CREDENTIAL_DB_PASSPHRASE_FILE": str(secret)}
        if lost:
            no_way = directory / "ssh"
            no_way.write_text("#!/bin/sh\nexit 255\n")
            no_way.chmod(0o755)
            hosts[lost]["ansible_connection"] = "{{ 'ssh' if look is defined else 'local' }}"
            hosts[lost]["ansible_ssh_executable"] = str(no_way)
        shared = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "credential_db": str(program),
            **variables,
        }
        self.inventory = directory / "inventory.yml"  # JSON is YAML
        self.inventory.write_text(json.dumps({"vaults": {"hosts": hosts, "vars": shared}}))
        settings = directory / "ansible.cfg"  # instead of the user's
        settings.touch()
        self.environment = {
            **environment(program, {}),
            "HOME": str(home),
            "ANSIBLE_HOME": str(home / ".ansible"),
            "ANSIBLE_CONFIG": str(settings),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8",
        }

    def play(self, *options: str) -> Play:
        """Run the playbook as the chapter prints it, on these hosts."""
        ansible, example, inventory, *rest = shlex.split(printed("roll out").splitlines()[-1])
        assert (ansible, example) == ("ansible-playbook", "-i")
        assert (CHECKOUT / inventory).exists()
        return self.run(str(self.inventory), *rest, *options)

    def run(self, inventory: str, *arguments: str) -> Play:
        result = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", inventory, *arguments],
            cwd=CHECKOUT,
            env={k: v for k, v in self.environment.items() if not k.startswith("COVERAGE")},
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

    def files(self) -> dict[str, dict[str, bytes]]:
        return {name: vault.files() for name, vault in self.vaults.items()}


def vaults(directory: Path, names: Iterable[str], encrypted: str = "") -> dict[str, Vault]:
    found = {}
    for name in names:
        (directory / name).mkdir()
        passphrase = PASSPHRASE if name == encrypted else None
        found[name] = Vault(directory / name / "credentials.db", passphrase)
    return found


@needs_ansible
def test_the_playbook_upgrades_a_fleet(tmp_path: Path, program: Path) -> None:
    hosts = vaults(tmp_path, ("v0", "v1", "v2", "missing", "current"), encrypted="v1")
    content = keys(2, rsa_keys=0)
    hosts["v0"].create(0, content=content)
    hosts["v1"].create(1, content=content)
    hosts["v2"].create(2, content=content)
    credential_db.upgrade(hosts["current"].path)
    before = {name: vault.content() for name, vault in hosts.items() if name != "missing"}
    pem = hosts["v0"].value("SELECT private_pem FROM ssh_keys WHERE id = 2")
    hosts["v0"].execute("UPDATE ssh_keys SET private_pem = x'00' WHERE id = 2")
    fleet = Fleet(tmp_path, program, hosts)
    files = fleet.files()

    # One of the first tenth, which is v0, fails.
    first = fleet.play()
    assert first.status != 0, first.output
    assert first.hosts("failed") == {"v0"}, first.output
    assert first.hosts("changed") == set(), first.output
    assert "row 2" in first.output, "the playbook does not show why the upgrade failed"
    assert "1 of the rows" in first.output
    backups = [*tmp_path.glob("*/*.backup")]
    for backup in backups:  # of v0 at most
        assert backup.parent.name == "v0", "the playbook went on after a failure"
        files["v0"][backup.name] = backup.read_bytes()
    assert fleet.files() == files, "the playbook went on after a failure"

    # It is put right, and the same is run again.
    hosts["v0"].execute(("UPDATE ssh_keys SET private_pem = ? WHERE id = 2", (pem,)))
    second = fleet.play()
    assert second.status == 0, second.output
    assert second.hosts("changed") == {"v0", "v1", "v2", "missing"}, second.output
    for name, vault in hosts.items():
        assert vault.stamps() == STAMPS, name
        if name in before:
            assert vault.content() == upgraded(before[name], 0 if name == "v0" else 2), name
    for name in ("v0", "v1", "v2"):
        backup = max(tmp_path.glob(f"{name}/*.backup"))
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        assert Vault(backup, hosts[name].passphrase).content() == before[name]
    assert len([*tmp_path.glob("*/*.backup")]) == 3 + len(backups), "a backup of what, and why?"

    # And once more: nothing to do.
    files = fleet.files()
    third = fleet.play()
    assert third.status == 0, third.output
    assert third.hosts("changed") == set(), f"the playbook is not idempotent:\n{third.output}"
    assert fleet.files() == files


@needs_ansible
def test_the_playbook_stops_before_it_changes_anything(tmp_path: Path, program: Path) -> None:
    hosts = vaults(tmp_path, ("good", "garbage", "ahead", "unrecognized", "missing", "locked"))
    hosts["good"].create(1)
    hosts["garbage"].path.write_bytes(b"no database " * 100)
    hosts["ahead"].create(2, number=99)
    hosts["unrecognized"].create(0, number=2)
    hosts["locked"].create(1)
    fleet = Fleet(tmp_path, program, hosts, vault_must_exist=True, vault_timeout=0.2)
    files = fleet.files()

    with closing(hosts["locked"].connect()) as other:
        other.execute("BEGIN EXCLUSIVE")
        play = fleet.play()
    assert play.status != 0
    assert play.hosts("failed") == {*hosts} - {"good"}, play.output
    assert play.hosts("changed") == set(), play.output
    assert fleet.files() == files
    for name in ("ahead", "unrecognized"):
        found = credential_db.status(hosts[name].path)
        assert f"{name}: {found.detail}" in play.output, f"the playbook does not say why:{found}"
    assert "not a SQLite database" in play.output
    assert "the file does not exist" in play.output
    assert "is locked by process" in play.output or sys.platform != "linux"


@needs_ansible
def test_the_playbook_stops_when_a_host_is_lost(tmp_path: Path, program: Path) -> None:
    hosts = vaults(tmp_path, ("lost", "other"))
    for vault in hosts.values():
        vault.create(1)
    fleet = Fleet(tmp_path, program, hosts, lost="lost")
    files = fleet.files()
    play = fleet.play()
    assert play.status != 0
    assert play.hosts("unreachable") == {"lost"}, play.output
    assert fleet.files() == files, f"the playbook went on without the first tenth:\n{play.output}"
    assert "lost on the way" in play.output


@needs_ansible
def test_the_playbook_only_tries_with_check(tmp_path: Path, program: Path) -> None:
    fleet = Fleet(tmp_path, program, vaults(tmp_path, ["v1"]))
    fleet.vaults["v1"].create(1, content=keys(1))
    files = fleet.files()
    option = shlex.split(printed("roll out").splitlines()[0])[-1]
    play = fleet.play(option)
    assert (play.status, play.hosts("changed")) == (0, {"v1"}), play.output
    assert fleet.files() == files


@needs_ansible
def test_the_example_inventory_fits_the_playbook(tmp_path: Path, program: Path) -> None:
    command = shlex.split(printed("roll out").splitlines()[-1])
    play = Fleet(tmp_path, program, {}).run(*command[2:], "--list-hosts")
    assert play.status == 0, play.output
    assert "vault-01.example.com" in play.output


# What the chapter prints


def shell(commands: str, directory: Path, environment: Mapping[str, str]) -> None:
    """Type the commands one by one. ``status`` may say that there is something to upgrade."""
    for line in commands.splitlines():
        result = subprocess.run(
            ["sh", "-uc", line],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode in ((0, 3) if line.endswith("status") else (0,)), (
            f"{CHAPTER.name} prints a command that fails:\n{line}\n{result.stdout}{result.stderr}"
        )


def test_a_backup_can_be_restored(vault: Vault, program: Path) -> None:
    vault.create(0, content=keys(3), journal_mode="wal")
    before = vault.content()
    variables = environment(program, vault.environment)
    directory = vault.path.parent
    shell(printed("back up"), directory, variables)
    after = vault.content()

    # The worst that may be found: the vault is gone to pieces, its log is of another file.
    vault.path.write_bytes(b"broken " * 1000)
    vault.path.with_name("credentials.db-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(5000))
    shell(printed("restore"), directory, variables)
    assert vault.stamps() == STAMPS
    assert vault.content() == after == upgraded(before, 0)
    assert stat.S_IMODE(vault.path.stat().st_mode) == 0o600
    vault.check_integrity()
    kept = {file.name for file in (directory / "broken").iterdir()}
    assert {"credentials.db", "credentials.db-wal"} <= kept


@needs_litestream
def test_a_new_replica_has_no_old_key(plain_vault: Vault, program: Path) -> None:
    plain_vault.create(0, content=keys(1, rsa_keys=0), journal_mode="wal")
    directory = plain_vault.path.parent
    variables = environment(program, {})
    once = next(line for line in printed("litestream").splitlines() if " -once " in line)
    shell(once.replace("replica-v2", "replica-v0"), directory, variables)
    shell(printed("litestream"), directory, variables)
    restored = directory / "restored.db"
    assert Vault(restored).content() == plain_vault.content()
    # The oldest state that can be restored is the new version already.
    oldest = f"litestream restore -txid {1:016x} -o oldest.db file://{directory}/replica-v2"
    shell(oldest, directory, variables)
    assert Vault(directory / "oldest.db").stamps() == STAMPS
