-- Rows that are there before the load begins.
INSERT INTO customers (email, name, address, interests)
SELECT 'customer' || n || '@example.com', 'Customer ' || n,
       jsonb_build_object('city', (ARRAY['Köln', 'Zürich', '東京', 'São Paulo'])[1 + n % 4], 'zip', 10000 + n),
       (ARRAY['shoes', 'books, used', 'a "quoted" one', NULL])[1:1 + n % 4]
FROM generate_series(1, 2000) AS n;

INSERT INTO products (id, name, price, stock, tags, attributes, picture, description)
SELECT n, 'Product ' || n, (random() * 500)::numeric(10, 2), 100000, ARRAY['new', 'tag ' || n % 17],
       jsonb_build_object('weight', random() * 10, 'exact', 0.1234567890123456789012345678901234567890, 'nested',
                          jsonb_build_array(n, NULL, 'back\slash', E'line\nbreak')),
       CASE WHEN n % 3 > 0 THEN decode(md5(n::text), 'hex') END,
       (SELECT string_agg(md5(n || '/' || part), ' ') FROM generate_series(1, 180) AS part)
FROM generate_series(1, 500) AS n;

INSERT INTO featured SELECT n, n FROM generate_series(1, 20) AS n;

INSERT INTO orders (customer_id, state, note)
SELECT 1 + n % 2000, 'paid', CASE n % 3 WHEN 0 THEN '' WHEN 1 THEN 'leave it at the door' END
FROM generate_series(1, 2000) AS n;

INSERT INTO order_lines (order_id, line, product_id, quantity, unit_price)
SELECT o, l, 1 + (o * 7 + l) % 500, l, (random() * 100)::numeric(10, 2)
FROM generate_series(1, 2000) AS o, generate_series(1, 3) AS l;

INSERT INTO payments (order_id, amount, fee, details)
SELECT n, (random() * 1000)::numeric(12, 2), random(), jsonb_build_object('method', 'card', 'try', n % 3)
FROM generate_series(1, 2000) AS n;

INSERT INTO reviews (product_id, customer_id, stars, body)
SELECT 1 + n % 500, n, 1 + n % 5, CASE WHEN n % 4 > 0 THEN repeat('good value ', n % 30) END
FROM generate_series(1, 1000) AS n;

INSERT INTO coupons
SELECT 'WELCOME-' || n, 0.5 * n, (SELECT string_agg(md5(n || ':' || part), '') FROM generate_series(1, 100) AS part)
FROM generate_series(1, 50) AS n;

INSERT INTO bank_branches SELECT n, 100 * 1000 FROM generate_series(1, 10) AS n;
INSERT INTO bank_accounts SELECT n, 1 + n % 10, 1000 FROM generate_series(1, 1000) AS n;
INSERT INTO ledger_end VALUES (1, 0);

ANALYZE;
