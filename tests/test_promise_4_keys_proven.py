"""Promise 4: a key is written only if it is proven; one bad row stops all, and all are named."""

import base64
import pickle
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_ssh_private_key,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

import credential_db
from credential_db import key_conversion
from credential_db.sqlite.row_conversion import BadRow
from steps import step
from vaults import HEAD, Key, Vault, ed25519_key, rsa_key

BASE = {"ed25519": ed25519_key(0), "rsa": rsa_key(0)}
OTHER = ed25519_key(8)
ECDSA = Key("ecdsa", ec.generate_private_key(ec.SECP256R1()))


def armor(content: bytes, label: str = "OPENSSH PRIVATE KEY", width: int = 70) -> bytes:
    text = base64.b64encode(content).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def content_of(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))


def flipped(content: bytes, position: int, bit: int = 1) -> bytes:
    position %= len(content)
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


# Every way to be bad: a change of a good row

Change = Callable[[Key], dict[str, object]]


def private(make: Callable[[Key], object]) -> Change:
    return lambda key: {"private": make(key)}


def public(make: Callable[[Key], object]) -> Change:
    return lambda key: {"public_blob": make(key)}


def inside(change: Callable[[bytes], bytes]) -> Change:
    """A change in the container behind the armor."""
    return private(lambda key: armor(change(content_of(key.pem))))


COUNT = b"none" + bytes(7)  # what precedes the number of keys
BAD_ROW: dict[str, Change] = {  # in every version and of every type
    "TEXT": private(lambda key: key.pem.decode()),
    "empty": private(lambda _: b""),
    "a number": private(lambda _: 42),
    "PKCS#8 PEM": private(lambda key: armor(key.der, "PRIVATE KEY", 64)),
    "another key": private(lambda _: OTHER.pem),
    "another key, in DER": private(lambda _: OTHER.der),
    "ECDSA": private(lambda _: ECDSA.pem),
    "ECDSA, in DER": private(lambda _: ECDSA.der),
    "the other type": lambda key: {"key_type": {"rsa": "ed25519", "ed25519": "rsa"}[key.key_type]},
    "another row's public half": public(lambda _: OTHER.public_blob),
    "junk behind the public half": public(lambda key: key.public_blob + b"\0"),
    "a flipped bit in the public half": public(lambda key: flipped(key.public_blob, -1)),
    "a public half as TEXT": public(lambda key: key.public_line.decode()),
}
BAD_PEM: dict[str, Change] = {
    "two blocks": private(lambda key: key.pem + ed25519_key(7).pem),
    "two blocks on one line": private(lambda key: key.pem.rstrip() + key.pem),
    "junk behind": private(lambda key: key.pem + b"junk"),
    "junk before": private(lambda key: b"junk\n" + key.pem),
    "a public key behind": private(lambda key: key.pem + key.public_line),
    "cut in the base64": private(lambda key: key.pem[:120]),
    "a character that is not base64": private(lambda key: key.pem[:90] + b"*" + key.pem[91:]),
    "base64 behind its padding": private(lambda key: key.pem.replace(b"\n-----END", b"=AAAA\n---")),
    "a key in DER": private(lambda key: key.der),
    # The end of the DER is that of a seed, or of qInv.
    "a flipped bit": private(
        lambda key: armor(content_of(key.pem).replace(key.der[-8:], flipped(key.der[-8:], 5)))
    ),
    "a cipher announced": inside(lambda c: c.replace(b"none", b"nene", 1)),
    "junk inside": inside(lambda c: c + b"junk"),
    "another container": inside(lambda c: b"O" + c[1:]),
    "two keys announced": inside(lambda c: c.replace(COUNT + b"\1", COUNT + b"\2")),
    "cut inside": inside(lambda c: c[:-30]),
    "other padding": inside(lambda c: flipped(c, -1)),
}
BAD_DER: dict[str, Change] = {
    "junk behind": private(lambda key: key.der + b"\0"),
    "cut": private(lambda key: key.der[:-1]),
    "a flipped bit": private(lambda key: flipped(key.der, -1)),
    "a key in PEM": private(lambda key: key.pem),
    "encrypted": private(
        lambda key: key.private.private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    ),
}


@cache
def bad_rows(version: int) -> dict[str, tuple[Key, dict[str, object]]]:
    """By name, a good row, and what is changed in it; no two public halves are equal."""
    changes = {**BAD_ROW, **(BAD_PEM if version == 0 else BAD_DER)}
    return {
        f"{kind}: {name}": (key, change(key))
        for kind, key in BASE.items()
        for name, change in changes.items()
    }


BAD = [(version, name) for version in (0, 2) for name in bad_rows(version)]


def convert(version: int, private: object, key_type: object, public_blob: object) -> bytes:
    function = key_conversion.to_pkcs8 if version == 0 else key_conversion.to_openssh
    return function(private, key_type, public_blob)


def row_of(version: int, key: Key, **changed: object) -> dict[str, Any]:
    secret = key.pem if version == 0 else key.der
    row = {"private": secret, "key_type": key.key_type, "public_blob": key.public_blob}
    return {**row, **changed}


def insert(vault: Vault, row: int, version: int, **cells: Any) -> None:
    column = "private_pem" if version == 0 else "private_der"
    statement = (
        f"INSERT INTO ssh_keys (id, {column}, key_type, public_blob, fingerprint)"
        " VALUES (:id, :private, :key_type, :public_blob, :fingerprint)"
    )
    vault.execute((statement, {"id": row, "fingerprint": f"stored wrong {row}", **cells}))  # type: ignore[arg-type]  # by name


def change(vault: Vault) -> object:
    """Upgrade or downgrade, across the conversion."""
    if vault.value("PRAGMA user_version") == 0:
        return credential_db.upgrade(vault.path, **vault.options)
    step(vault, "v0")
    return None


def refused(vault: Vault, *ids: int) -> credential_db.KeyConversionError:
    """The error, which names exactly these rows, while the file keeps its bytes and its time."""
    before = vault.files(), vault.path.stat().st_mtime_ns
    with pytest.raises(credential_db.KeyConversionError) as caught:
        change(vault)
    assert (vault.files(), vault.path.stat().st_mtime_ns) == before, "refused, and changed"
    assert [problem.id for problem in caught.value.problems] == list(ids), "name every bad row"
    return caught.value


@pytest.mark.parametrize(("version", "name"), BAD)
def test_a_bad_key_is_refused(version: int, name: str) -> None:
    key, changed = bad_rows(version)[name]
    convert(version, **row_of(version, key))
    with pytest.raises(BadRow):
        convert(version, **row_of(version, key, **changed))
    for key_type in ("dsa", key.key_type.upper(), b"ed25519", None):
        with pytest.raises(BadRow, match="key_type"):
            convert(version, **row_of(version, key, key_type=key_type))


@pytest.mark.parametrize("version", [0, 2])
def test_bad_rows_of_all_kinds_are_named_together(vault: Vault, version: int) -> None:
    vault.create(version, content=[rsa_key(1), ed25519_key(1)])  # rows 2 and 5
    rows = {100 + 10 * number: row for number, row in enumerate(bad_rows(version).values())}
    for row, (key, changed) in rows.items():
        insert(vault, row, version, **row_of(version, key, **changed))
    insert(vault, 101, version, **row_of(version, ed25519_key(9)))
    refused(vault, *rows)


@pytest.mark.parametrize("width", [4, 10_000])
def test_a_key_in_another_layout_is_the_same_key(width: int) -> None:
    key = BASE["ed25519"]
    pem = b"\n \t" + armor(content_of(key.pem), width=width).replace(b"\n", b"\r\n") + b"\n\n"
    assert convert(0, pem, "ed25519", key.public_blob) == key.der


# p = 5, q = 11: small enough to see what holds. Modulo 4 and 10, 3 * 7 is 1; 11 is 1 modulo 5.
SMALL = {"n": 55, "e": 3, "d": 7, "p": 5, "q": 11, "dmp1": 3, "dmq1": 7, "iqmp": 1}
ALSO_RIGHT = {"e": {23, 43, 63, 83, 103, 123}, "d": {27, 47}}
WRONG_TOGETHER: list[dict[str, int]] = [
    {"p": 1, "q": 55, "dmp1": 0, "dmq1": 7},
    {"p": 55, "q": 1, "e": 5, "d": 11, "dmp1": 11, "dmq1": 0},  # 5 * 11 is 1 modulo 54
    {"p": 11, "q": 5},  # exchanged, and the others not
    {"p": -5, "q": -11},
    {"e": 1, "d": 1, "dmp1": 1, "dmq1": 1},
    {"n": 25, "q": 5, "dmq1": 3},  # modulo 5, 5 has no inverse
    {"d": 17, "dmp1": 1},  # right modulo q - 1 alone
    {"d": 11, "dmq1": 1},  # right modulo p - 1 alone
    {"d": 4, "dmp1": 0, "dmq1": 4},
]


def agree(**changed: int) -> bool:
    numbers = {**SMALL, **changed}
    public = rsa.RSAPublicNumbers(numbers.pop("e"), numbers.pop("n"))
    return key_conversion.rsa_numbers_agree(rsa.RSAPrivateNumbers(public_numbers=public, **numbers))


@pytest.mark.parametrize("name", SMALL)
def test_one_small_rsa_number_that_does_not_agree(name: str) -> None:
    right = {number for number in range(-130, 130) if number and agree(**{name: number})}
    assert right == {SMALL[name], *ALSO_RIGHT.get(name, ())}
    assert name in ("p", "q", "n") or not agree(**{name: 0})
    assert not any(agree(**changed) for changed in WRONG_TOGETHER)


# Rows that are bad together


@pytest.mark.parametrize("version", [0, 2])
def test_the_same_public_half_names_all_good_rows(plain_vault: Vault, version: int) -> None:
    """If the others are bad anyway, a good key stays: the advice is to delete what is named."""
    plain_vault.create(version, content=[ed25519_key(1)])
    ids = [-5, 300, 9000]
    for row in ids:
        insert(plain_vault, row, version, **row_of(version, BASE["ed25519"]))
    for row, changed in ((9997, {}), (9998, {"private": b""}), (9999, {"private": b""})):
        insert(plain_vault, row, version, **row_of(version, BASE["rsa"], **changed))
    for row, reason in refused(plain_vault, *ids, 9998, 9999).problems[:3]:
        assert any(reason.endswith(f"row {other}") for other in ids if other != row)


@pytest.mark.parametrize("version", [0, 2])
def test_a_fingerprint_that_another_row_holds_by_mistake(plain_vault: Vault, version: int) -> None:
    content = [ed25519_key(row) for row in range(4)]
    plain_vault.create(version, content=[])
    for row, key in enumerate(content):
        cells = row_of(version, key)
        if row in (2, 3):
            cells["fingerprint"] = content[row - 1].fingerprint(1 - min(version, 1))
        insert(plain_vault, row, version, **cells)
    refused(plain_vault, 1, 2)


def test_every_bad_row_of_many_is_named_and_nothing_written(plain_vault: Vault) -> None:
    """Also more changed pages than SQLite's cache holds, which it must not write."""
    bad = [-(2**63), -1, 0, 255, 256, 258, 510, 511, 2**63 - 1]
    content = [ed25519_key(1000 + number) for number in range(600)]
    plain_vault.create(content=content)
    for number, row in enumerate(bad):
        insert(plain_vault, row, 0, **row_of(0, ed25519_key(number), private=b""))
    plain_vault.execute("UPDATE ssh_keys SET comment = hex(zeroblob(2500))")
    error = refused(plain_vault, *bad)
    assert all(f"row {row} {reason}" in str(error) for row, reason in error.problems)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.problems) == (type(error), str(error), error.problems)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_the_file_upgrades_once_its_bad_rows_are_repaired(vault: Vault, journal_mode: str) -> None:
    vault.create(content=[ed25519_key(1)], journal_mode=journal_mode)
    insert(vault, 77, 0, **row_of(0, BASE["rsa"], private=b""))
    refused(vault, 77)
    vault.execute(("UPDATE ssh_keys SET private_pem = ? WHERE id = 77", (BASE["rsa"].pem,)))
    assert change(vault) == (0, HEAD)
    assert vault.value("SELECT private_der FROM ssh_keys WHERE id = 77") == BASE["rsa"].der


# As a property: a damaged key is either still exactly that key, or refused

Edit = tuple[int, int, bytes]
EDIT = st.tuples(st.integers(0, 2**16), st.integers(0, 2), st.binary(max_size=2))
DAMAGED: dict[str, tuple[int, Callable[[Key, Callable[[bytes], bytes]], Any]]] = {
    "PEM": (0, lambda key, edit: {"private": edit(key.pem)}),
    "container": (0, lambda key, edit: {"private": armor(edit(content_of(key.pem)))}),
    "DER": (2, lambda key, edit: {"private": edit(key.der)}),
    "public half": (0, lambda key, edit: {"public_blob": edit(key.public_blob)}),
}


@settings(deadline=None, max_examples=500, derandomize=True)
@given(
    kind=st.sampled_from(sorted(BASE)),
    edits=st.lists(EDIT, min_size=1, max_size=3),
    where=st.sampled_from(sorted(DAMAGED)),
)
@example(kind="ed25519", edits=[(0, 1, b",")], where="PEM")
def test_a_damaged_key_is_the_right_key_or_refused(
    kind: str, edits: list[Edit], where: str
) -> None:
    def edited(content: bytes) -> bytes:
        for position, length, new in edits:
            at = position % (len(content) + 1)
            content = content[:at] + new + content[at + length :]
        return content

    key, (version, damaged) = BASE[kind], DAMAGED[where]
    row = row_of(version, key, **damaged(key, edited))
    try:
        found = convert(version, **row)
    except BadRow:
        return
    der = found if version == 0 else Key(kind, load_ssh_private_key(found, None)).der  # type: ignore[arg-type]
    assert der == key.der, "a key that is not the stored one must not be written"
    assert row["public_blob"] == key.public_blob


# The real ssh-keygen has the last word


def ssh_keygen(*arguments: str | Path) -> str:
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout


REAL_KEYS = [
    ["-t", "ed25519", "-C", ""],
    ["-t", "rsa", "-b", "2048"],
    [
        "-t",
        "ed25519",
        "-C",
        "na\u00efve \U0001f511 -----BEGIN OPENSSH PRIVATE KEY-----" + "x" * 300,
    ],
]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_of_the_real_ssh_keygen_go_there_and_back(plain_vault: Vault, tmp_path: Path) -> None:
    vault = plain_vault.create(content=[])
    printed, public_halves = [], []
    for row, arguments in enumerate(REAL_KEYS):
        file = tmp_path / f"key-{row}"
        ssh_keygen("-q", "-N", "", "-f", file, *arguments)
        _, half, *_ = ssh_keygen("-y", "-f", file).split()
        blob, pem = base64.b64decode(half), file.read_bytes()
        insert(vault, row, 0, private=pem, key_type=arguments[1], public_blob=blob)
        printed.append((ssh_keygen("-l", "-f", file).split(" ")[1],))
        public_halves.append(half)
    change(vault)
    ssh_keygen("-q", "-p", "-P", "", "-N", "secret", "-f", file)
    with pytest.raises(BadRow, match="encrypted"):
        convert(0, file.read_bytes(), "ed25519", blob)

    assert vault.query("SELECT fingerprint FROM ssh_keys ORDER BY id") == printed
    file.write_bytes(
        armor(vault.value("SELECT private_der FROM ssh_keys WHERE id = 1"), "PRIVATE KEY", 64)
    )
    # Of RSA: ssh-keygen reads no Ed25519 in PKCS#8 before OpenSSH 9.6.
    assert ssh_keygen("-y", "-f", file).split()[1] == public_halves[1]

    change(vault)

    stored = vault.query("SELECT private_pem FROM ssh_keys ORDER BY id")
    for (pem,), half in zip(stored, public_halves, strict=True):
        file.write_bytes(pem)
        assert ssh_keygen("-y", "-f", file).split()[1] == half
