-- The leader's tables: a shop, a bank in the manner of pgbench, and a ledger without holes.
-- Followers get them, with their grants, from `cdc bootstrap`.
CREATE TYPE order_state AS ENUM ('new', 'paid', 'packed', 'sent', 'returned');

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    name text NOT NULL,
    address jsonb NOT NULL,
    interests text[] NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The description lies out of line; prices change without touching it, so its value is not in those events.
CREATE TABLE products (
    id int PRIMARY KEY,
    sku uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name text NOT NULL,
    price numeric(10, 2) NOT NULL,
    stock int NOT NULL,
    tags text[] NOT NULL,
    attributes jsonb NOT NULL,
    picture bytea,
    description text STORAGE EXTERNAL NOT NULL
);

-- Two products swap places inside a transaction: applied in the wrong order, the unique constraint breaks.
CREATE TABLE featured (
    product_id int PRIMARY KEY REFERENCES products,
    place int NOT NULL UNIQUE
);

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    customer_id bigint NOT NULL REFERENCES customers,
    state order_state NOT NULL DEFAULT 'new',
    note text,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz
);

CREATE TABLE order_lines (
    order_id bigint REFERENCES orders ON DELETE CASCADE,
    line int,
    product_id int NOT NULL REFERENCES products,
    quantity int NOT NULL,
    unit_price numeric(10, 2) NOT NULL,
    amount numeric(12, 2) GENERATED ALWAYS AS (quantity * unit_price) STORED,
    PRIMARY KEY (order_id, line)
);

CREATE TABLE payments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    amount numeric(12, 2) NOT NULL,
    fee double precision NOT NULL,
    details jsonb NOT NULL,
    paid_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE reviews (
    product_id int REFERENCES products,
    customer_id bigint REFERENCES customers,
    stars smallint NOT NULL CHECK (stars BETWEEN 1 AND 5),
    body text,
    visible tstzrange NOT NULL DEFAULT tstzrange(clock_timestamp(), NULL),
    PRIMARY KEY (product_id, customer_id)
);

-- Its key is changed under load, and the terms beside it are too large to be sent along.
CREATE TABLE coupons (
    code text PRIMARY KEY,
    discount numeric NOT NULL,
    terms text STORAGE EXTERNAL NOT NULL
);

-- Money only moves: the sum over all accounts is the same in every state that the leader ever had,
-- and a branch always holds what its accounts hold.
CREATE TABLE bank_branches (
    id int PRIMARY KEY,
    balance bigint NOT NULL
);

CREATE TABLE bank_accounts (
    id int PRIMARY KEY,
    branch_id int NOT NULL REFERENCES bank_branches,
    balance bigint NOT NULL
);

CREATE TABLE bank_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_account int NOT NULL REFERENCES bank_accounts,
    to_account int NOT NULL REFERENCES bank_accounts,
    amount bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Every transaction of the load writes one row, as its last act before the commit: 1, 2, 3 ... in commit
-- order, so a follower that shows number N and a hole before it has shown a state that never was.
-- The receipt is the client's: a leader that takes over gives numbers again that were lost with the old one.
CREATE TABLE ledger (
    number bigint PRIMARY KEY,
    kind text NOT NULL,
    receipt uuid NOT NULL DEFAULT gen_random_uuid(),
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE ledger_end (
    id int PRIMARY KEY CHECK (id = 1),
    last_number bigint NOT NULL
);

-- The role of an application: it may write, so a follower has to refuse it.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk;
