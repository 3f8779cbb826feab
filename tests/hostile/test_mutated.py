"""Damaged files of every kind: read as far as they are sound, or refused by `InputError`, never anything else."""

import time
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hostile.mutate import damaged, text, twisted
from hostile.sound import BYTES, JSON, Held, Parser
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ibviz.errors import InputError

LONGEST = 10  # seconds of work; the machine may do other things as well
calm = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def read(parser: Parser | Held, content: bytes) -> None:
    """Read a file of its kind; a warning is no failure, for damage may be worth one."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / parser.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        begun = time.process_time()
        parser.read(path)
        assert time.process_time() - begun < LONGEST


@pytest.mark.parametrize("kind", BYTES)
def test_the_sound_file_of_bytes_reaches_its_parser(kind):
    """Those of weights and shards are refused for what they hold, all others are read."""
    refused = {"authors' weights": "not those of", "weights": "does not hold", "shard": "checksum"}
    if kind not in refused:
        read(BYTES[kind], BYTES[kind].sound())
        return
    with pytest.raises(InputError, match=refused[kind]):
        read(BYTES[kind], BYTES[kind].sound())


@pytest.mark.parametrize("kind", BYTES)
def test_damaged_bytes_end_in_one_error_or_none(kind):
    sound = BYTES[kind].sound()

    @settings(calm, max_examples=BYTES[kind].examples)
    @given(damaged(sound))
    def check(content: bytes) -> None:
        with suppress(InputError):
            read(BYTES[kind], content)

    check()


@pytest.mark.parametrize("kind", JSON)
def test_the_sound_json_is_read(kind):
    read(JSON[kind], text(JSON[kind].sound()))


@pytest.mark.parametrize("kind", JSON)
def test_twisted_json_ends_in_one_error_or_none(kind):
    sound = JSON[kind].sound()

    @settings(calm, max_examples=JSON[kind].examples)
    @given(twisted(sound))
    def check(held: Any) -> None:
        with suppress(InputError):
            read(JSON[kind], text(held))

    check()


DEEP = b'{"x":' * 5000 + b"1" + b"}" * 5000
NO_JSON = [b"", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b"\0", DEEP, b"9" * 5000, b"[NaN]"]


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
@pytest.mark.parametrize("kind", [kind for kind in JSON if kind != "header of a model"])
def test_what_is_no_object_of_json_is_refused(kind, content):
    with pytest.raises(InputError):
        read(JSON[kind], content)


@pytest.mark.parametrize("kind", BYTES)
@settings(calm, max_examples=3)
@given(noise=st.binary(max_size=64))
def test_noise_is_refused(kind, noise):
    if kind in ("recipe", "suite"):  # of which an empty one is sound
        noise += b"\xff"
    with pytest.raises(InputError):
        read(BYTES[kind], noise)
