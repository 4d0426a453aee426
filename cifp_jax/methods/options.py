"""Settings that are a choice of names."""


def check_option(setting: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ValueError that names the known values where `value` is none of them."""
    if value not in known:
        raise ValueError(f"config.method.{setting} is {value!r}; known: {', '.join(known)}.")
