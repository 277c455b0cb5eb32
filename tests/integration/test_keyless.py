"""A table without a key takes inserts, when it is named itself and not by a pattern."""

from tests.fixtures.pipeline import Pipelines


def test_inserts_of_a_table_without_a_key_arrive_once(pipelines: Pipelines):
    pipeline = pipelines.new("CREATE TABLE visit (page text, at timestamptz DEFAULT now())", tables=("public.visit",))
    pipeline.init().bootstrap().start()
    pipeline.execute(
        "INSERT INTO visit (page) SELECT 'p' || i FROM generate_series(1, 500) AS i",
        "INSERT INTO visit (page) VALUES ('same'), ('same')",
    )
    pipeline.catch_up()
    pipeline.assert_equal()
