"""Ids and seeds of texts keep their values, because tables and journals of finished runs hold them."""

import hashlib

from psychocounsel.storage.text_hashes import number_of, seed_of, text_hash, text_id


def test_an_id_is_the_beginning_of_a_sha256_over_the_joined_parts() -> None:
    assert text_id("I can't sleep.") == hashlib.sha256(b"I can't sleep.").hexdigest()[:16]
    assert text_id("a", "b") == hashlib.sha256(b"a\0b").hexdigest()[:16]
    assert text_id("half \ud83d") != text_id("half ")
    assert text_hash("I can't sleep.") == hashlib.sha256(b"I can't sleep.").hexdigest()


def test_a_seed_has_four_bytes_of_the_hash_and_a_number_eight() -> None:
    assert seed_of(3, "speech", 0) == int.from_bytes(hashlib.sha256(b"3\0speech\x000").digest()[:4])
    assert number_of(3, "speech", 0) == int.from_bytes(hashlib.sha256(b"3\0speech\x000").digest()[:8])
    assert seed_of(3, "speech", 1) != seed_of(3, "speech", 0) < 2**32
