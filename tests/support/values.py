"""Values that text forms, drivers and formats get wrong, by group and type, as PostgreSQL's input text."""

from __future__ import annotations

from collections.abc import Mapping

TYPES_DDL = (
    "CREATE EXTENSION citext SCHEMA public",
    "CREATE EXTENSION hstore SCHEMA public",
    "CREATE EXTENSION ltree SCHEMA public",
    """CREATE TYPE public.mood AS ENUM ('ok', 'not ok', '', '''quoted"', 'a,b', '漢字')""",
    "CREATE DOMAIN public.percent AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100)",
    "CREATE DOMAIN public.code AS varchar(8) NOT NULL DEFAULT ''",
    "CREATE TYPE public.pair AS (a text, b int)",
    "CREATE TYPE public.nested AS (p public.pair, list public.pair[], m public.mood)",
    "CREATE TYPE public.floatrange AS RANGE (subtype = float8)",
    "CREATE TYPE public.\"odd %s type\" AS ENUM ('x', 'y')",
    "CREATE TYPE public.deep AS (n public.nested, list public.nested[], at public.floatrange)",
    "CREATE DOMAIN public.pair_or_null AS public.pair CHECK ((VALUE).b IS DISTINCT FROM 13)",
    "CREATE DOMAIN public.some_texts AS text[] CHECK (cardinality(VALUE) < 9)",
    "CREATE DOMAIN public.half AS public.percent CHECK (VALUE <= 50)",
    "CREATE DOMAIN public.span AS int4range",
    "CREATE TYPE public.of_domains AS (h public.half, t public.some_texts, p public.pair_or_null)",
)

TEXTS = (
    "plain", "", " ", "NULL", "null", r"\N", r"\.", "\t", "a\nb\r\nc", r"back\slash", r"\x41", "'single'", '"double"',
    "{}", '{"a": 1}', "%s %% %(x)s", "$1 :x ?", "\x01\x1f\x7f", "ünïcödé 漢字 🐘", "\u2028\ufeff\u200d",
    "; DROP TABLE x; --", "\ud7ff\ue000\U0010ffff",
)  # fmt: skip

# A value is used as often as it takes; `None` is added where NULL is possible.
VALUES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "numbers": {
        "smallint": ("-32768", "32767", "0"),
        "int": ("-2147483648", "2147483647", "0"),
        "bigint": ("-9223372036854775808", "9223372036854775807", "9007199254740993"),
        "numeric": ("NaN", "Infinity", "-Infinity", "0", "0.000", "1.10", "1e1000", "-1e-1000",
                    "1234567890123456789012345678901234567890.1234567890123456789012345678901234567890"),
        "numeric(20,5)": ("99999999999.99999", "-1.5", "NaN"),
        "float4": ("NaN", "Infinity", "-Infinity", "-0", "0", "1e-45", "3.4028235e38", "0.1", "16777217"),
        "float8": ("NaN", "Infinity", "-Infinity", "-0", "0", "5e-324", "1.7976931348623157e308", "0.1", "1e-7",
                   "123456789.12345679", "2.2250738585072014e-308"),
        "boolean": ("true", "false"),
        "oid": ("0", "4294967295"),
        "money": ("-92233720368547758.08", "0.01", "1234.5"),
    },
    "texts": {
        "text": TEXTS,
        "varchar(30)": TEXTS,
        "char(24)": TEXTS,
        '"char"': ("", "a", "\x01", "\\351", "\\"),
        "name": ("a", 'q"uote', "x" * 63),
        "bytea": ("", r"\x", r"\x00", r"\x" + bytes(range(256)).hex(), r"\x5c4e"),
        "bit(5)": ("10101", "00000"),
        "varbit": ("", "1", "0" * 33),
        "public.citext": ("Abc", "aBC", ""),
    },
    "times": {
        "date": ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29"),
        "time": ("24:00:00", "00:00:00", "23:59:59.999999"),
        "timetz": ("24:00:00-15:59", "00:00:00+15:59", "12:00:00.000001+05:45"),
        "timestamp": ("infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"),
        "timestamptz": ("infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00",
                        "2024-03-31 01:59:59.999999+00", "0001-01-01 00:00:00+00", "1900-01-01 00:00:00+00"),
        "timestamptz(0)": ("2024-10-27 00:59:59+00", "2024-10-27 01:00:00+00"),
        "interval": ("0", "1 mon -1 day +00:00:00.000001", "-178000000 years", "178000000 years", "-1 year 2 mons",
                     "-00:00:01", "1 day -24:00:00", "P1Y2M3DT4H5M6.7S",
                     "1 year -2 mons +3 days -04:05:06.789", "-1 year +2 mons -3 days +04:05:06.789",
                     "-1 days +23:59:59.999999", "2562047788:00:54.775807", "-2562047788:00:54.775807"),
        "interval day to second": ("3 days 04:05:06", "-3 days 04:05:06"),
    },
    "json": {
        "json": ("null", '{"a":1, "a" : 2}', "[ ]", r'"\u0041\n"', "1e400", '"\\u0001"'),
        "jsonb": ("null", '"null"', "{}", "[]",
                  '{"n": 1234567890123456789012345678901234567890}', '{"n": 1.10, "m": 1e-20}',
                  f'{{"n": {"1234567890" * 10}.{"0987654321" * 10}, "e": 1e-99}}',
                  r'{"k\"ey": "\\N\n\t", "": [null, true, {"é": "🐘"}]}', "0.1000000000000000055511151231257827"),
        "jsonpath": ('$."a b"[*] ? (@ > 1)', "lax $", 'strict $.x'),
        "public.hstore": ('"a"=>NULL, "b c"=>"d\\"e", ""=>""', ""),
        "public.ltree": ("Top.Science.Astronomy", ""),
    },
    "arrays": {
        "int[]": ("{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[2:3]={1,2}", "[-1:0][5:5]={{1},{2}}"),
        "text[]": ('{"NULL",NULL,""}', '{"a,b","{}","\\"","\\\\N"," "}', "{é🐘}", '{"a\nb"}'),
        "float8[]": ("{NaN,-0,Infinity}",),
        "bytea[]": (r'{"\\x","\\x00ff"}',),
        "jsonb[]": ('{"{\\"a\\": [1, null]}",null}',),
        "timestamptz[]": ("{infinity,2020-01-01 00:00:00+00}",),
        "public.mood[]": ("{ok,\"not ok\",\"\",\"'quoted\\\"\",\"a,b\",漢字}",),
        "public.pair[]": ('{"(a,1)","(,)","(\\"\\",2)"}',),
        "public.percent[]": ("{1.50,NULL}",),
        "public.nested[]": ('{"(\\"(x,1)\\",\\"{\\"\\"(y,2)\\"\\"}\\",ok)",NULL}',),
        "numrange[]": ('{"[1.10,1.100]",empty,NULL}',),
        "box[]": ("{(1,1),(0,0);(2,2),(0,0)}",),
        "interval[]": ('{"1 mon","-1 days +00:00:01"}',),
        "int2vector": ("1 2 3", ""),
        "oidvector": ("1 2",),
    },
    "user": {
        "public.mood": ("ok", "not ok", "", "'quoted\"", "a,b", "漢字"),
        'public."odd %s type"': ("x", "y"),
        "public.percent": ("0", "99.99"),
        "public.code": ("", "abc"),
        "public.pair": ("(a,1)", "(,)", '("",)', '("a,""b\\\\",-1)', "(NULL,2)"),
        "public.nested": ('("(x,1)","{""(y,2)"",""(,)""}",ok)', "(,,)"),
        "public.deep": ('("(""(x,1)"",""{""""(y,2)""""}"",ok)",,"[-0,NaN]")', "(,,)"),
        "public.pair_or_null": ("(a,1)", "(,)"),
        "public.some_texts": ('{"a,b",NULL,"{}"}', "{}", "[0:1]={x,y}"),
        "public.half": ("0.10", "50"),
        "public.span": ("[1,5)", "empty"),
        "public.of_domains": ('(1.5,"{a,NULL}","(b,2)")', "(,,)"),
    },
    "ranges": {
        "int4range": ("empty", "[1,5)", "(,5)", "[1,)", "(,)"),
        "tstzrange": ('["2020-01-01 00:00:00+00",infinity)', "empty"),
        "public.floatrange": ("[-0,NaN]", "(0.1,0.2)"),
        "int4multirange": ("{}", "{[1,3),[5,7)}"),
        "numrange": ("[1.10,1.100]", "(,-0.50]", "[NaN,)"),
        "int8range": ("[-9223372036854775808,9223372036854775807)",),
        "daterange": ("[-infinity,infinity]", "[4713-01-01 BC,2000-01-01)", "(,)"),
        "tsrange": ('["4713-01-01 00:00:00 BC",infinity)', "(,)"),
        "nummultirange": ("{[1.10,1.100],(2,)}", "{}"),
        "int8multirange": ("{(,1),[5,7)}",),
        "datemultirange": ("{[2000-01-01,2000-02-01),[2001-01-01,)}",),
        "tsmultirange": ('{["2000-01-01 00:00:00","2000-01-01 00:00:01"]}',),
        "tstzmultirange": ('{["2000-01-01 00:00:00+00",infinity)}',),
        "public.floatmultirange": ("{[-0,0.1],(1e-7,NaN]}",),
        "int4range[]": ('{"[1,5)",empty}',),
        "int4multirange[]": ('{"{[1,3),[5,7)}","{}"}',),
    },
    "catalog": {
        "regproc": ("pg_catalog.now", "-"),
        "regprocedure": ("pg_catalog.abs(integer)", "-"),
        "regoper": ("pg_catalog.||/", "0"),
        "regoperator": ("pg_catalog.+(integer,integer)", "pg_catalog.-(NONE,integer)", "0"),
        "regclass": ("pg_catalog.pg_class", "-", "4294967295"),
        "regtype": ("timestamp with time zone", "public.mood", "public.pair[]", "-"),
        "regrole": ("pg_monitor", "-"),
        "regnamespace": ("pg_catalog", "public", "-"),
        "regconfig": ("simple", "english"),
        "regdictionary": ("simple",),
        "regcollation": ('"C"', '"POSIX"', "-"),
        "regclass[]": ("{pg_class,pg_type,-}",),
        "oid[]": ("{0,4294967295}",),
        "xid": ("0", "4294967295"),
        "cid": ("0", "4294967295"),
        "txid_snapshot": ("10:20:10,14,15",),
        "refcursor": ("a cursor", ""),
    },
    "network": {
        "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        "inet": ("192.168.0.1/24", "::1", "10.0.0.1"),
        "cidr": ("192.168.0.0/24", "2001:db8::/32"),
        "macaddr": ("08:00:2b:01:02:03",),
        "macaddr8": ("08:00:2b:01:02:03:04:05",),
        "pg_lsn": ("0/0", "FFFFFFFF/FFFFFFFF"),
        "xid8": ("0", "18446744073709551615"),
        "tid": ("(0,1)", "(4294967295,65535)"),
        "pg_snapshot": ("10:20:10,14,15",),
        "tsvector": ("'a':1A 'b c':2,3 'd\\\\e'", ""),
        "tsquery": ("'a' & !'b' <-> 'c':*A",),
    },
    "shapes": {
        "point": ("(1.5,-0)", "(NaN,Infinity)", "(1e-300,0.1)"),
        "line": ("{1,2,3}",),
        "lseg": ("[(0,0),(1,1)]",),
        "box": ("(1,1),(0,0)",),
        "path": ("[(0,0),(1,1)]", "((0,0),(1,1))"),
        "polygon": ("((0,0),(1,1),(1,0))",),
        "circle": ("<(0,0),0.1>",),
    },
}  # fmt: skip

# There is no B-tree for them.
NO_KEYS = frozenset(
    {"json", "jsonpath", "pg_snapshot", "txid_snapshot", "xid", "cid", "box[]", "refcursor", *VALUES["shapes"]}
)


def literal(value: str | None) -> str:
    if value is None:
        return "NULL"
    return "'" + value.replace("'", "''") + "'"


def columns_of(group: str, *, keys_only: bool = False) -> dict[str, str]:
    """Column name to type."""
    types = [t for t in VALUES[group] if not (keys_only and t in NO_KEYS)]
    return {f"c{number}": type_name for number, type_name in enumerate(types)}


def rows(group: str, count: int, *, keys_only: bool = False) -> list[list[str]]:
    """`count` rows of literals, one for each column; every value is used, and NULL where it may be."""
    found = []
    for row in range(count):
        cells = []
        for place, type_name in enumerate(columns_of(group, keys_only=keys_only).values()):
            values: tuple[str | None, ...] = VALUES[group][type_name]
            if not keys_only and type_name != "public.code":
                values = (*values, None)
            cells.append(literal(values[(row + place) % len(values)]))
        found.append(cells)
    return found


def longest(group: str) -> int:
    """So many rows hold every value, and a row of NULLs at some place."""
    return max(len(values) for values in VALUES[group].values()) + 1
