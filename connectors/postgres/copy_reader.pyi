def read(
    get_copy_data: int,
    free_mem: int,
    consume_input: int,
    connection: int,
    messages: list[bytes],
    most_bytes: int,
    most: int,
) -> tuple[int, int]: ...
