"""Decodes datums with fastavro and compares what it gets: decode.py SCHEMA DATUMS EXPECTED

DATUMS holds each datum behind its length (4 bytes, big-endian); EXPECTED holds a JSON object a line, its instants in milliseconds.
"""

import io
import json
import struct
import sys
from datetime import datetime, timedelta, timezone

import fastavro

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# avsc, for JavaScript, refuses what its numbers cannot tell from its neighbours.
LAST = 2**53 - 1


def plain(value):
    if isinstance(value, datetime):
        value = (value - EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, int) and abs(value) > LAST:
        raise ValueError("a number beyond those of JavaScript")
    return value


schema = fastavro.parse_schema(json.load(open(sys.argv[1])))
datums = open(sys.argv[2], "rb").read()
at = count = 0
for line in open(sys.argv[3], encoding="utf-8"):
    (length,) = struct.unpack_from(">I", datums, at)
    datum = io.BytesIO(datums[at + 4 : at + 4 + length])
    at += 4 + length
    record = fastavro.schemaless_reader(datum, schema)
    assert not datum.read(), f"record {count}: something is left over"
    found = {name: plain(value) for name, value in record.items() if name != "ingest"}
    expected = json.loads(line)
    assert found == expected, f"record {count}: {found} is not {expected}"
    count += 1
assert at == len(datums), "datums are left over"
print(count, "records")
