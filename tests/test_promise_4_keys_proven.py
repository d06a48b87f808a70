"""Promise 4: a key is written only once it is proven; one bad row stops it all, and all are named.

The formats are written out here: PROTOCOL.key of OpenSSH, and RFC 5208 with RFC 8017 for PKCS#8.
"""

import base64
import hashlib
import pickle
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_ssh_private_key,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

import credential_db
from credential_db import key_conversion, scripts
from credential_db.openssh import load_openssh
from credential_db.sqlite.row_conversion import BadRow
from vaults import HEAD, Key, Vault, ed25519_key, fingerprint, rsa_key

needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed"
)

MARKER = b"-----BEGIN OPENSSH PRIVATE KEY-----"
BASE = {"ed25519": ed25519_key(0), "rsa": rsa_key(0)}


# OpenSSH's container, taken apart and put together again


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def armor(content: bytes, label: str = "OPENSSH PRIVATE KEY", width: int = 70) -> bytes:
    text = base64.b64encode(content).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def private_section(fields: bytes, check: bytes = b"\1\2\3\4") -> bytes:
    """The fields of a private key and its comment, between check numbers and padding."""
    section = check + check + fields
    return section + bytes(range(1, 1 + -len(section) % 8))


def container(public_blob: bytes, section: bytes) -> bytes:
    """One unencrypted key: its public half and its private section."""
    return armor(
        b"openssh-key-v1\0"
        + string(b"none")
        + string(b"none")
        + string(b"")
        + (1).to_bytes(4, "big")
        + string(public_blob)
        + string(section)
    )


def rsa_numbers(key: Key) -> dict[str, int]:
    assert isinstance(key.private, rsa.RSAPrivateKey)
    private = key.private.private_numbers()
    return {
        "n": private.public_numbers.n,
        "e": private.public_numbers.e,
        "d": private.d,
        "p": private.p,
        "q": private.q,
        "dmp1": private.dmp1,
        "dmq1": private.dmq1,
        "iqmp": private.iqmp,
    }


def rsa_public_blob(numbers: Mapping[str, int]) -> bytes:
    return string(b"ssh-rsa") + mpint(numbers["e"]) + mpint(numbers["n"])


def rsa_container(numbers: Mapping[str, int]) -> bytes:
    fields = b"".join(mpint(numbers[name]) for name in ("n", "e", "d", "iqmp", "p", "q"))
    section = private_section(string(b"ssh-rsa") + fields + string(b"comment"))
    return container(rsa_public_blob(numbers), section)


def ed25519_container(seed: bytes, public: bytes) -> bytes:
    blob = string(b"ssh-ed25519") + string(public)
    return container(blob, private_section(blob + string(seed + public) + string(b"comment")))


def tagged(tag: int, value: bytes) -> bytes:
    """One element of DER."""
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def rsa_pkcs8(numbers: Mapping[str, int]) -> bytes:
    def integer(value: int) -> bytes:
        return tagged(2, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))

    order = ("n", "e", "d", "p", "q", "dmp1", "dmq1", "iqmp")
    key = tagged(0x30, integer(0) + b"".join(integer(numbers[name]) for name in order))
    rsa_encryption = bytes.fromhex("06092a864886f70d010101") + b"\x05\0"
    return tagged(0x30, integer(0) + tagged(0x30, rsa_encryption) + tagged(4, key))


def test_the_helpers_write_what_other_software_reads() -> None:
    numbers = rsa_numbers(BASE["rsa"])
    assert (
        key_conversion.to_pkcs8(rsa_container(numbers), "rsa", BASE["rsa"].public_blob)
        == BASE["rsa"].der
    )
    assert rsa_pkcs8(numbers) == BASE["rsa"].der
    seed, public = BASE["ed25519"].der[-32:], BASE["ed25519"].public_blob[-32:]
    pem = ed25519_container(seed, public)
    assert (
        key_conversion.to_pkcs8(pem, "ed25519", BASE["ed25519"].public_blob) == BASE["ed25519"].der
    )


# Every way to be bad: what to change in a good row, and what the reason has to say

Change = Callable[[Key], dict[str, Any]]


def private(make: Callable[[Key], object]) -> Change:
    return lambda key: {"private": make(key)}


def in_base64(change: Callable[[bytes], bytes]) -> Change:
    """A change in the container behind the armor."""
    return private(
        lambda key: armor(change(base64.b64decode(b"".join(key.pem.split(b"\n")[1:-2]))))
    )


def flipped(content: bytes, position: int, bit: int = 1) -> bytes:
    position %= len(content)
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


def with_flipped_seed_bit(key: Key) -> bytes:
    seed, public = key.der[-32:], key.public_blob[-32:]
    return ed25519_container(flipped(seed, 5), public)


def with_flipped_seed_bit_and_its_public_half(key: Key) -> bytes:
    other = ed25519_key(123456)
    return ed25519_container(other.der[-32:], other.public_blob[-32:])


def encrypted(key: Key) -> bytes:
    """As ``ssh-keygen -N secret`` writes it, but for what the ciphertext holds."""
    options = string(bytes(range(16))) + (16).to_bytes(4, "big")
    ciphertext = hashlib.shake_256(key.pem).digest(len(key.pem) // 16 * 16)
    return armor(
        b"openssh-key-v1\0"
        + string(b"aes256-ctr")
        + string(b"bcrypt")
        + string(options)
        + (1).to_bytes(4, "big")
        + string(key.public_blob)
        + string(ciphertext)
    )


def ecdsa() -> Key:
    return Key("ecdsa", ec.generate_private_key(ec.SECP256R1()))


def encoded(encoding: Encoding, form: PrivateFormat) -> Change:
    return private(lambda key: key.private.private_bytes(encoding, form, NoEncryption()))


def ecdsa_row(_: Key) -> dict[str, Any]:
    key = ecdsa()
    return {"private": key.pem, "public_blob": key.public_blob}


BAD_IN_BOTH_TYPES: dict[str, tuple[Change, str]] = {
    "two PEM blocks": (private(lambda key: key.pem + ed25519_key(7).pem), "more than one"),
    "the same PEM block twice": (private(lambda key: key.pem * 2), "more than one"),
    "two blocks on one line": (
        private(lambda key: key.pem.rstrip() + ed25519_key(7).pem),
        "more than one",
    ),
    "junk behind": (private(lambda key: key.pem + b"junk"), "other than one whole"),
    "junk before": (private(lambda key: b"junk\n" + key.pem), "other than one whole"),
    "a NUL behind": (private(lambda key: key.pem + b"\0"), "other than one whole"),
    "a public key behind": (private(lambda key: key.pem + key.public_line), "other than one whole"),
    "junk behind the key in the container": (
        in_base64(lambda c: c + b"junk"),
        "cut off or corrupt",
    ),
    "another kind of container": (in_base64(lambda c: b"O" + c[1:]), "cut off or corrupt"),
    "two keys announced in the container": (
        in_base64(lambda c: c.replace(b"none" + bytes(7) + b"\1", b"none" + bytes(7) + b"\2")),
        "cut off or corrupt",
    ),
    "a cipher announced": (in_base64(lambda c: c.replace(b"none", b"nene", 1)), "encrypted"),
    "encrypted": (private(encrypted), "encrypted"),
    "truncated in the base64": (private(lambda key: key.pem[:120]), "other than one whole"),
    "truncated in the container": (in_base64(lambda c: c[:-30]), "cut off or corrupt"),
    "one base64 character lost": (
        private(lambda key: key.pem[:90] + key.pem[91:]),
        "cut off or corrupt",
    ),
    "a character that base64 has not": (
        private(lambda key: key.pem[:90] + b"*" + key.pem[91:]),
        "other than one whole",
    ),
    "one bit flipped in the check numbers": (
        private(lambda key: armor(_flipped_check(key))),
        "cut off or corrupt",
    ),
    "PKCS#8 PEM": (encoded(Encoding.PEM, PrivateFormat.PKCS8), "OpenSSH's PEM format"),
    "PKCS#8 DER": (encoded(Encoding.DER, PrivateFormat.PKCS8), "OpenSSH's PEM format"),
    "the public half": (private(lambda key: key.public_line), "OpenSSH's PEM format"),
    "empty": (private(lambda _: b""), "OpenSSH's PEM format"),
    "white space": (private(lambda _: b" \n"), "OpenSSH's PEM format"),
    "TEXT": (private(lambda key: key.pem.decode()), "TEXT"),
    "empty TEXT": (private(lambda _: ""), "TEXT"),
    "a number": (private(lambda _: 42), "holds a number"),
    "the other key_type": (
        lambda key: {"key_type": {"rsa": "ed25519", "ed25519": "rsa"}[key.key_type]},
        "not of its key_type",
    ),
    "another row's public_blob": (
        lambda _: {"public_blob": ed25519_key(8).public_blob},
        "public_blob",
    ),
    "an empty public_blob": (lambda _: {"public_blob": b""}, "public_blob"),
    "a public_blob cut short": (lambda key: {"public_blob": key.public_blob[:-1]}, "public_blob"),
    "junk behind the public_blob": (
        lambda key: {"public_blob": key.public_blob + b"\0"},
        "public_blob",
    ),
    "a public_blob with one bit flipped": (
        lambda key: {"public_blob": flipped(key.public_blob, -1)},
        "public_blob",
    ),
    "a public_blob in base64": (
        lambda key: {"public_blob": base64.b64encode(key.public_blob)},
        "public_blob",
    ),
    "a public_blob as TEXT": (
        lambda key: {"public_blob": key.public_line.decode()},
        "public_blob as TEXT",
    ),
}
BAD_ED25519: dict[str, tuple[Change, str]] = {
    "a seed with one bit flipped": (private(with_flipped_seed_bit), "public_blob"),
    "another key's seed with its public half": (
        private(with_flipped_seed_bit_and_its_public_half),
        "public_blob",
    ),
    "ECDSA": (ecdsa_row, "not of its key_type"),
}
PKCS1 = encoded(Encoding.PEM, PrivateFormat.TraditionalOpenSSL)
BAD_RSA: dict[str, tuple[Change, str]] = {
    "PKCS#1 PEM": (PKCS1, "OpenSSH's PEM format"),
    "PKCS#1 DER": (
        encoded(Encoding.DER, PrivateFormat.TraditionalOpenSSL),
        "OpenSSH's PEM format",
    ),
    "ECDSA": (ecdsa_row, "not of its key_type"),
}
BAD = {
    **{(kind, name): row for kind in BASE for name, row in BAD_IN_BOTH_TYPES.items()},
    **{("ed25519", name): row for name, row in BAD_ED25519.items()},
    **{("rsa", name): row for name, row in BAD_RSA.items()},
}


def _flipped_check(key: Key) -> bytes:
    content = base64.b64decode(b"".join(key.pem.split(b"\n")[1:-2]))
    section = content.index(key.public_blob) + len(key.public_blob) + 4
    return flipped(content, section)


def insert(vault: Vault, row_id: int, key: Key, shape: int = 0, **changes: Any) -> None:
    """A row of ssh_keys, good unless something is changed."""
    row: dict[str, Any] = {
        "key_type": key.key_type,
        "private": key.pem if shape == 0 else key.der,
        "public_blob": key.public_blob,
        "fingerprint": key.fingerprint(min(shape, 1)),
        **changes,
    }
    column = "private_pem" if shape == 0 else "private_der"
    vault.execute(
        (
            f"INSERT INTO ssh_keys (id, key_type, {column}, public_blob, fingerprint)"
            " VALUES (?, ?, ?, ?, ?)",
            (row_id, row["key_type"], row["private"], row["public_blob"], row["fingerprint"]),
        )
    )


def downgrade(vault: Vault, revision: str = "v0") -> None:
    config = scripts.config()
    config.attributes["passphrase"] = vault.passphrase
    config.set_main_option("sqlalchemy.url", str(vault.path).replace("%", "%%"))
    command.downgrade(config, revision)


def state(vault: Vault) -> tuple[dict[str, bytes], int]:
    """Bytes and modification time, to find a refused file exactly as it was."""
    return vault.files(), vault.path.stat().st_mtime_ns


def refused(
    vault: Vault, change: Callable[[Vault], object], *ids: int
) -> credential_db.KeyConversionError:
    """The error, which names exactly these rows, once nothing is seen to have changed."""
    before = state(vault)
    with pytest.raises(credential_db.KeyConversionError) as caught:
        change(vault)
    assert state(vault) == before, "a refused file must keep its bytes and its modification time"
    error = caught.value
    assert [problem.id for problem in error.problems] == list(ids), "list every bad row, by id"
    for problem in error.problems:
        assert f"row {problem.id} {problem.reason}" in str(error)
    return error


def upgrade(vault: Vault) -> object:
    return credential_db.upgrade(vault.path, **vault.options)


@pytest.mark.parametrize(("kind", "bad"), BAD)
def test_a_bad_key_is_refused_by_its_id(plain_vault: Vault, kind: str, bad: str) -> None:
    change, reason = BAD[kind, bad]
    plain_vault.create(content=[rsa_key(1), ed25519_key(1)])
    insert(plain_vault, 77, BASE[kind], **change(BASE[kind]))
    error = refused(plain_vault, upgrade, 77)
    assert reason in error.problems[0].reason, "the reason has to say what is wrong with the row"


def test_a_bad_key_is_refused_in_an_encrypted_file(vault: Vault) -> None:
    vault.create(content=[ed25519_key(1)])
    insert(vault, 77, BASE["ed25519"], private=with_flipped_seed_bit(BASE["ed25519"]))
    refused(vault, upgrade, 77)


def test_a_key_type_that_never_was_is_refused(plain_vault: Vault) -> None:
    plain_vault.create(check=False, content=[])
    for row_id, key_type in enumerate(("dsa", "RSA", "ed25519 ", "", b"ed25519", 3)):
        insert(plain_vault, row_id, ed25519_key(row_id), key_type=key_type)
    error = refused(plain_vault, upgrade, *range(6))
    assert {problem.reason for problem in error.problems} == {
        "has a key_type that is neither ed25519 nor rsa"
    }


@pytest.mark.parametrize("column", ["private", "public_blob"])
def test_text_that_is_not_utf_8_is_a_bad_row_like_any_other(
    plain_vault: Vault, column: str
) -> None:
    plain_vault.create(content=[ed25519_key(1)])
    insert(plain_vault, 77, BASE["ed25519"])
    name = "private_pem" if column == "private" else column
    plain_vault.execute(f"UPDATE ssh_keys SET {name} = CAST({name} || x'ff' AS TEXT) WHERE id = 77")
    with pytest.raises(credential_db.KeyConversionError) as caught:
        upgrade(plain_vault)
    assert [problem.id for problem in caught.value.problems] == [77]


@pytest.mark.parametrize("change", ["surrounded by white space", "CRLF", "one long line", "narrow"])
def test_a_key_in_another_layout_is_the_same_key(plain_vault: Vault, change: str) -> None:
    key = ed25519_key(1)
    content = base64.b64decode(b"".join(key.pem.split(b"\n")[1:-2]))
    pem = {
        "surrounded by white space": b"\n \t" + key.pem + b"\n\n",
        "CRLF": key.pem.replace(b"\n", b"\r\n"),
        "one long line": armor(content, width=10_000),
        "narrow": armor(content, width=4),
    }[change]
    plain_vault.create(content=[])
    insert(plain_vault, 1, key, private=pem)
    upgrade(plain_vault)
    assert plain_vault.query("SELECT private_der, fingerprint FROM ssh_keys") == [
        (key.der, key.fingerprint(1))
    ]


def test_the_comment_inside_a_key_may_hold_anything(plain_vault: Vault) -> None:
    key = ed25519_key(1)
    public = string(b"ssh-ed25519") + string(key.public_blob[-32:])
    private_half = string(key.der[-32:] + key.public_blob[-32:])
    plain_vault.create(content=[])
    section = private_section(public + private_half + string(b"\0\xff" + MARKER))
    pem = container(key.public_blob, section)
    insert(plain_vault, 1, key, private=pem)
    upgrade(plain_vault)
    assert plain_vault.value("SELECT private_der FROM ssh_keys") == key.der


# RSA: n = p q, d e = 1 modulo p - 1 and q - 1, and what follows from them (RFC 8017, section 3.2)

CORRUPTIONS: dict[str, Callable[[int], int]] = {
    "lowest bit": lambda number: number ^ 1,
    "next bit": lambda number: number ^ 2,
    "middle bit": lambda number: number ^ 1 << number.bit_length() // 2,
    "highest bit": lambda number: number ^ 1 << number.bit_length() - 1,
    "doubled": lambda number: number * 2,
    "one": lambda _: 1,
    "zero": lambda _: 0,
    "negative": lambda number: -number,
}
RSA_MIXTURES: dict[str, Callable[[dict[str, int]], dict[str, int]]] = {
    "p and q exchanged, iqmp not": lambda n: {**n, "p": n["q"], "q": n["p"]},
    "p is n and q is 1": lambda n: {**n, "p": n["n"], "q": 1, "iqmp": 1, "dmp1": n["d"], "dmq1": 0},
    "p and q both negative": lambda n: {**n, "p": -n["p"], "q": -n["q"]},
    "d of another key": lambda n: {**n, "d": rsa_numbers(rsa_key(1))["d"]},
    "iqmp plus p": lambda n: {**n, "iqmp": n["iqmp"] + n["p"]},
    "d plus n": lambda n: {**n, "d": n["d"] + n["n"]},
    "dmp1 and dmq1 exchanged": lambda n: {**n, "dmp1": n["dmq1"], "dmq1": n["dmp1"]},
}


def corrupted(number: str, how: str) -> dict[str, int]:
    numbers = rsa_numbers(BASE["rsa"])
    return {**numbers, number: CORRUPTIONS[how](numbers[number])}


@pytest.mark.parametrize("number", ["n", "e", "d", "p", "q", "iqmp"])
def test_a_corrupt_rsa_number_in_openssh_format_is_refused(plain_vault: Vault, number: str) -> None:
    plain_vault.create(content=[])
    rows = {row_id: corrupted(number, how) for row_id, how in enumerate(CORRUPTIONS)}
    for row_id, numbers in rows.items():
        # The public half fits the private one, so only the arithmetic can tell.
        blob = rsa_public_blob(numbers)
        pem = rsa_container(numbers)
        insert(plain_vault, row_id, BASE["rsa"], private=pem, public_blob=blob, fingerprint=row_id)
    refused(plain_vault, upgrade, *rows)


@pytest.mark.parametrize("number", ["n", "e", "d", "p", "q", "dmp1", "dmq1", "iqmp"])
def test_a_corrupt_rsa_number_in_pkcs8_is_refused(plain_vault: Vault, number: str) -> None:
    plain_vault.create(2, content=[])
    rows = {row_id: corrupted(number, how) for row_id, how in enumerate(CORRUPTIONS)}
    for row_id, numbers in rows.items():
        blob = rsa_public_blob(numbers)
        der = rsa_pkcs8(numbers)
        insert(
            plain_vault, row_id, BASE["rsa"], 2, private=der, public_blob=blob, fingerprint=row_id
        )
    refused(plain_vault, downgrade, *rows)


@pytest.mark.parametrize("shape", [0, 2])
def test_rsa_numbers_that_agree_only_in_part_are_refused(plain_vault: Vault, shape: int) -> None:
    plain_vault.create(shape, content=[])
    mixtures = [name for name in RSA_MIXTURES if shape == 2 or not name.startswith("dmp1")]
    for row_id, name in enumerate(mixtures):
        numbers = RSA_MIXTURES[name](rsa_numbers(BASE["rsa"]))
        secret = rsa_container(numbers) if shape == 0 else rsa_pkcs8(numbers)
        insert(plain_vault, row_id, BASE["rsa"], shape, private=secret, fingerprint=row_id)
    refused(plain_vault, upgrade if shape == 0 else downgrade, *range(len(mixtures)))


# p = 5, q = 11: small enough to see what holds. Modulo 4 and 10, 3 * 7 is 1; 11 is 1 modulo 5.
SMALL = {"n": 55, "e": 3, "d": 7, "p": 5, "q": 11, "dmp1": 3, "dmq1": 7, "iqmp": 1}


def agree(**changed: int) -> bool:
    numbers = {**SMALL, **changed}
    public = rsa.RSAPublicNumbers(numbers.pop("e"), numbers.pop("n"))
    return key_conversion.rsa_numbers_agree(rsa.RSAPrivateNumbers(public_numbers=public, **numbers))


def test_small_rsa_numbers_agree() -> None:
    assert agree()
    assert agree(d=27, dmp1=3, dmq1=7), "d may be reduced by less than p - 1 times q - 1"


@pytest.mark.parametrize(
    "changed",
    [
        {"n": 54},
        {"n": 56},
        {"p": 1, "q": 55, "dmp1": 0, "dmq1": 7},
        {"p": 55, "q": 1, "e": 5, "d": 11, "dmp1": 11, "dmq1": 0},  # 5 * 11 is 1 modulo 54
        {"p": -5, "q": -11},
        {"e": 1, "d": 1, "dmp1": 1, "dmq1": 1},
        {"n": 25, "q": 5, "dmq1": 3},  # modulo 5, 5 has no inverse
        {"e": 0},
        {"e": -17},  # which is 3 modulo 4 and 10
        {"d": 67},  # right modulo p - 1 and q - 1, and so is the next one
        {"d": -13},
        {"d": 17, "dmp1": 1},  # right modulo q - 1 alone
        {"d": 11, "dmq1": 1},  # right modulo p - 1 alone
        {"d": 4, "dmp1": 0, "dmq1": 4},
        {"dmp1": 7},
        {"dmp1": -1},
        {"dmq1": 17},
        {"dmq1": -3},
        {"iqmp": 6},
        {"iqmp": -4},
        {"iqmp": 2},
        {"iqmp": 0},
    ],
    ids=str,
)
def test_small_rsa_numbers_that_do_not_agree(changed: dict[str, int]) -> None:
    assert not agree(**changed)


BAD_DER: dict[str, tuple[str, Change]] = {
    "junk behind": ("ed25519", private(lambda key: key.der + b"\0")),
    "truncated": ("ed25519", private(lambda key: key.der[:-1])),
    "OpenSSH PEM": ("ed25519", private(lambda key: key.pem)),
    "PKCS#8 PEM": ("rsa", encoded(Encoding.PEM, PrivateFormat.PKCS8)),
    "encrypted": (
        "rsa",
        private(
            lambda key: key.private.private_bytes(
                Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            )
        ),
    ),
    "TEXT": ("ed25519", private(lambda key: key.pem.decode())),
    "empty": ("rsa", private(lambda _: b"")),
    "a seed with one bit flipped": ("ed25519", private(lambda key: flipped(key.der, -1))),
    "ECDSA": ("ed25519", lambda _: {"private": ecdsa().der}),
    "another row's public_blob": ("rsa", lambda _: {"public_blob": ed25519_key(8).public_blob}),
    "a public_blob as TEXT": ("rsa", lambda key: {"public_blob": key.public_line.decode()}),
    "the other key_type": ("rsa", lambda _: {"key_type": "ed25519"}),
}


@pytest.mark.parametrize("bad", BAD_DER)
def test_the_way_back_proves_keys_as_well(plain_vault: Vault, bad: str) -> None:
    kind, change = BAD_DER[bad]
    plain_vault.create(2, content=[rsa_key(1), ed25519_key(1)])
    insert(plain_vault, 77, BASE[kind], 2, **change(BASE[kind]))
    refused(plain_vault, downgrade, 77)


# Rows that are bad together


@pytest.mark.parametrize("shape", [0, 2])
@pytest.mark.parametrize("copies", [2, 3])
def test_the_same_public_half_twice_names_all_rows(
    plain_vault: Vault, shape: int, copies: int
) -> None:
    plain_vault.create(shape, content=[ed25519_key(1)])
    ids = [-5, 300, 9000][:copies]
    for row_id in ids:
        insert(plain_vault, row_id, BASE["ed25519"], shape, fingerprint=f"stored wrong {row_id}")
    error = refused(plain_vault, upgrade if shape == 0 else downgrade, *ids)
    for problem in error.problems:
        assert "same public key as row" in problem.reason
        assert any(f"row {other}" in problem.reason for other in ids if other != problem.id)


@pytest.mark.parametrize("shape", [0, 2])
@pytest.mark.parametrize("neighbour", [1, -1])
def test_fingerprints_stored_wrong_are_put_right(
    plain_vault: Vault, shape: int, neighbour: int
) -> None:
    """Each row claims the fingerprint that a neighbour is to have: none is a duplicate."""
    content = [ed25519_key(n) for n in range(4)]
    after = 1 - min(shape, 1)
    plain_vault.create(shape, content=[])
    for row_id, key in enumerate(content):
        wrong = content[(row_id + neighbour) % 4].fingerprint(after)
        insert(plain_vault, row_id, key, shape, fingerprint=wrong)
    (upgrade if shape == 0 else downgrade)(plain_vault)
    assert plain_vault.query("SELECT fingerprint FROM ssh_keys ORDER BY id") == [
        (key.fingerprint(after),) for key in content
    ]


def test_every_bad_row_of_many_is_listed(plain_vault: Vault) -> None:
    plain_vault.create(content=[])
    bad = {-(2**63), -1, 0, 255, 256, 257, 511, 512, 2**63 - 1}
    rows = []
    for number, row_id in enumerate(sorted({*bad, *range(600)})):
        key = ed25519_key(1000 + number)
        pem = key.pem[:150] if row_id in bad else key.pem
        rows.append((row_id, "ed25519", pem, key.public_blob, key.fingerprint(0)))
    connection = plain_vault.connect()
    connection.executemany(
        "INSERT INTO ssh_keys (id, key_type, private_pem, public_blob, fingerprint)"
        " VALUES (?, ?, ?, ?, ?)",
        rows,
    )
    connection.commit()
    connection.close()
    refused(plain_vault, upgrade, *sorted(bad))


def test_bad_rows_of_several_kinds_are_listed_together(plain_vault: Vault) -> None:
    plain_vault.create(content=[])
    key, other = BASE["ed25519"], ed25519_key(5)
    insert(plain_vault, 1, rsa_key(1))
    insert(plain_vault, 2, key, fingerprint="2")
    insert(plain_vault, 3, ed25519_key(3), private=b"")
    insert(plain_vault, 4, key, fingerprint="4")
    insert(plain_vault, 5, other, public_blob=ed25519_key(6).public_blob)
    insert(plain_vault, 6, ed25519_key(4))
    refused(plain_vault, upgrade, 2, 3, 4, 5)


def test_a_large_file_keeps_its_modification_time_too(plain_vault: Vault) -> None:
    """More changed pages than SQLite's cache holds: it must not write them before the commit."""
    content = [ed25519_key(1000 + number) for number in range(600)]
    plain_vault.create(content=content)
    plain_vault.execute("UPDATE ssh_keys SET comment = hex(zeroblob(2500))")
    insert(plain_vault, 5000, BASE["rsa"], private=b"")
    refused(plain_vault, upgrade, 5000)


def test_the_error_survives_a_pickle(plain_vault: Vault) -> None:
    plain_vault.create(content=[])
    insert(plain_vault, 3, BASE["rsa"], private=b"")
    error = refused(plain_vault, upgrade, 3)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.problems) == (type(error), str(error), error.problems)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_the_file_upgrades_once_its_bad_rows_are_repaired(
    plain_vault: Vault, journal_mode: str
) -> None:
    vault = plain_vault
    vault.create(content=[ed25519_key(1)], journal_mode=journal_mode)
    insert(vault, 77, BASE["rsa"], private=b"")
    refused(vault, upgrade, 77)
    vault.execute(("UPDATE ssh_keys SET private_pem = ? WHERE id = 77", (BASE["rsa"].pem,)))
    assert upgrade(vault) == (0, HEAD)
    assert vault.value("SELECT private_der FROM ssh_keys WHERE id = 77") == BASE["rsa"].der


# As a property: a damaged key is either still exactly that key, or refused

KINDS = st.sampled_from(["ed25519", "rsa"])
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "cut", "double"]),
        st.integers(0, 2**16),
        st.integers(1, 255),
    ),
    min_size=1,
    max_size=3,
)


def edited(content: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for edit, position, value in edits:
        if not content:
            break
        at = position % len(content)
        content = {
            "flip": flipped(content, at, value),
            "insert": content[:at] + bytes([value]) + content[at:],
            "delete": content[:at] + content[at + 1 :],
            "cut": content[:at],
            "double": content[:at] + content[max(0, at - value) : at] + content[at:],
        }[edit]
    return content


@settings(deadline=None, max_examples=400, derandomize=True)
@given(kind=KINDS, edits=EDITS, behind_the_armor=st.booleans())
@example(kind="ed25519", edits=[("flip", 0, 1)], behind_the_armor=False)
def test_a_damaged_pem_is_the_right_key_or_refused(
    kind: str, edits: list[tuple[str, int, int]], behind_the_armor: bool
) -> None:
    key = BASE[kind]
    if behind_the_armor:
        pem = armor(edited(base64.b64decode(b"".join(key.pem.split(b"\n")[1:-2])), edits))
    else:
        pem = edited(key.pem, edits)
    try:
        der = key_conversion.to_pkcs8(pem, key.key_type, key.public_blob)
    except BadRow:
        return
    assert der == key.der, "a key that is not the stored one must not be written"


def ed25519_with_comment(comment: bytes, check: bytes = b"\1\2\3\4") -> bytes:
    key = BASE["ed25519"]
    fields = key.public_blob + string(key.der[-32:] + key.public_blob[-32:]) + string(comment)
    return container(key.public_blob, private_section(fields, check))


@pytest.mark.parametrize("size", range(17))
def test_an_ed25519_key_needs_no_general_loader(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("credential_db.openssh.load_ssh_private_key")
    found = load_openssh(ed25519_with_comment(b"c" * size))
    assert pkcs8(found) == BASE["ed25519"].der


@pytest.mark.parametrize("junk", [b"AAAA", b"=", b"\nAAAA\n"])
def test_junk_behind_the_padding_of_base64_is_refused(junk: bytes) -> None:
    pem = ed25519_with_comment(b"c" * 8)
    assert b"=\n" in pem
    with pytest.raises(BadRow, match="cut off or corrupt"):
        load_openssh(pem.replace(b"=\n", b"=" + junk + b"\n"))


@pytest.mark.parametrize("difference", [-8, 8])
def test_a_size_that_is_not_right_is_refused(difference: int) -> None:
    content = base64.b64decode(b"".join(ed25519_with_comment(b"c" * 16).split(b"\n")[1:-2]))
    size = int.from_bytes(content[94:98], "big") + difference
    with pytest.raises(BadRow, match="cut off or corrupt"):
        load_openssh(armor(content[:94] + size.to_bytes(4, "big") + content[98:]))


# Behind 127 bytes of check numbers and keys there are a comment and 1, 2, 3... to a multiple of 8.
@pytest.mark.parametrize(
    "comment_and_padding",
    {
        "not a multiple of 8": string(b"c"),
        "padding of zeros": string(b"c") + b"\0\0\0\0",
        "padding from 2 on": string(b"c") + b"\2\3\4\5",
        "longer than there is": (14).to_bytes(4, "big") + b"c" * 7 + bytes(range(1, 7)),
        "much longer than there is": b"\xff\0\0\0" + bytes(range(1, 6)),
    }.items(),
    ids=lambda entry: entry[0],
)
def test_a_comment_or_padding_that_is_not_right_is_refused(
    comment_and_padding: tuple[str, bytes],
) -> None:
    key = BASE["ed25519"]
    section = b"\1\2\3\4" * 2 + key.public_blob
    section += string(key.der[-32:] + key.public_blob[-32:]) + comment_and_padding[1]
    with pytest.raises(BadRow, match="cut off or corrupt"):
        load_openssh(container(key.public_blob, section))


@settings(deadline=None, max_examples=1000, derandomize=True)
@given(
    edits=st.just([]) | EDITS,
    comment=st.binary(max_size=20),
    check=st.binary(min_size=4, max_size=4),
)
def test_a_damaged_container_is_read_as_cryptography_reads_it(
    edits: list[tuple[str, int, int]], comment: bytes, check: bytes
) -> None:
    whole = base64.b64decode(
        b"".join(ed25519_with_comment(comment, check).split(b"\n")[1:-2]), validate=True
    )
    pem = armor(edited(whole, edits))
    try:
        expected = pkcs8(load_ssh_private_key(pem, None))
    except Exception:
        with pytest.raises(BadRow):
            load_openssh(pem)
    else:
        assert pkcs8(load_openssh(pem)) == expected, "_ED25519 accepts what is another key"


@settings(deadline=None, max_examples=400, derandomize=True)
@given(kind=KINDS, edits=EDITS)
def test_a_damaged_der_is_the_right_key_or_refused(
    kind: str, edits: list[tuple[str, int, int]]
) -> None:
    key = BASE[kind]
    damaged = edited(key.der, edits)
    try:
        pem = key_conversion.to_openssh(damaged, key.key_type, key.public_blob)
    except BadRow:
        return
    assert pkcs8(load_ssh_private_key(pem, None)) == key.der, (
        "a key that is not the stored one must not be written"
    )


def pkcs8(key: Any) -> bytes:
    der: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return der


@settings(deadline=None, max_examples=100, derandomize=True)
@given(kind=KINDS, edits=EDITS)
def test_a_damaged_public_half_is_always_refused(
    kind: str, edits: list[tuple[str, int, int]]
) -> None:
    key = BASE[kind]
    damaged = edited(key.public_blob, edits)
    if damaged != key.public_blob:
        with pytest.raises(BadRow, match="public_blob"):
            key_conversion.to_pkcs8(key.pem, key.key_type, damaged)


# The real ssh-keygen has the last word


def ssh_keygen(*arguments: str | Path) -> str:
    return subprocess.run(
        ["ssh-keygen", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    ).stdout


def public_half(key: Key) -> str:
    return key.public_line.decode().split()[1]


REAL_KEYS = [
    ("ed25519", ["-t", "ed25519"]),
    ("rsa", ["-t", "rsa", "-b", "2048"]),
    ("rsa", ["-t", "rsa", "-b", "3072"]),
    ("ed25519", ["-t", "ed25519", "-C", "na\u00efve \U0001f511 " + "x" * 300]),
    ("ed25519", ["-t", "ed25519", "-C", ""]),
]


@needs_ssh_keygen
def test_keys_of_the_real_ssh_keygen_convert_and_keep_its_fingerprints(
    plain_vault: Vault, tmp_path: Path
) -> None:
    vault = plain_vault
    vault.create(content=[])
    printed, lines, pems = [], [], []
    for row_id, (key_type, arguments) in enumerate(REAL_KEYS):
        file = tmp_path / f"key-{row_id}"
        ssh_keygen("-q", "-N", "", "-f", file, *arguments)
        line = Path(f"{file}.pub").read_text(encoding="utf-8")
        blob, pem = base64.b64decode(line.split()[1]), file.read_bytes()
        vault.execute(
            (
                "INSERT INTO ssh_keys (id, key_type, private_pem, public_blob, fingerprint)"
                " VALUES (?, ?, ?, ?, ?)",
                (row_id, key_type, pem, blob, hashlib.sha256(blob).hexdigest()),
            )
        )
        printed.append(ssh_keygen("-l", "-f", file).split(" ")[1])
        lines.append(line)
        pems.append(pem)

    upgrade(vault)

    rows = vault.query("SELECT fingerprint, private_der, public_blob FROM ssh_keys ORDER BY id")
    assert [row[0] for row in rows] == printed, "fingerprints are those that ssh-keygen -l prints"
    assert printed == [fingerprint(row[2], 1) for row in rows]
    for (_, der, _), pem, line in zip(rows, pems, lines, strict=True):
        converted = load_der_private_key(der, None)
        original = load_ssh_private_key(pem, None)
        assert pkcs8(converted) == pkcs8(original) == der
        public = converted.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        assert public.decode().split()[1] == line.split()[1]


@needs_ssh_keygen
def test_the_real_ssh_keygen_reads_converted_keys(plain_vault: Vault, tmp_path: Path) -> None:
    content = [rsa_key(0), rsa_key(1), ed25519_key(1)]
    plain_vault.create(content=content)
    upgrade(plain_vault)
    file = tmp_path / "key"
    file.touch(0o600)
    stored = plain_vault.query("SELECT private_der FROM ssh_keys ORDER BY id")
    for (der,), key in zip(stored, content, strict=True):
        if key.key_type == "rsa":  # ssh-keygen reads no Ed25519 in PKCS#8 before OpenSSH 9.6
            file.write_bytes(armor(der, "PRIVATE KEY", 64))
            assert ssh_keygen("-y", "-f", file).split()[1] == public_half(key)

    downgrade(plain_vault)

    stored = plain_vault.query("SELECT private_pem FROM ssh_keys ORDER BY id")
    for (pem,), key in zip(stored, content, strict=True):
        file.write_bytes(pem)
        assert ssh_keygen("-y", "-f", file).split()[1] == public_half(key)
